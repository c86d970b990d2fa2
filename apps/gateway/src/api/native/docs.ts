import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { type Bounds, examplesFor, openApi, type Route } from '@sluice/contract';
import express, { type Express } from 'express';
import type { NativeHandlers } from './handlers.js';

const swaggerUi = dirname(createRequire(import.meta.url).resolve('swagger-ui-dist/package.json'));

const page = `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Sluice API</title>
    <link rel="icon" href="/docs/assets/favicon-32x32.png">
    <link rel="stylesheet" href="/docs/assets/swagger-ui.css">
  </head>
  <body>
    <div id="swagger-ui"></div>
    <script src="/docs/assets/swagger-ui-bundle.js"></script>
    <script src="/docs/assets/start.js"></script>
  </body>
</html>
`;
const startScript = `SwaggerUIBundle({ url: '/openapi.json', dom_id: '#swagger-ui', deepLinking: true });\n`;

/**
 * Handlers of the reference, which is generated from the table of routes. The page loads nothing from the Internet.
 * @param version of the service
 * @param bounds whose models the examples name
 */
export function docsRoutes(
  routes: Readonly<Record<string, Route>>,
  version: string,
  bounds: Bounds,
): Pick<NativeHandlers, 'docs' | 'openapi'> {
  // Made when it is first asked for, since it takes a fifth of a second.
  let document: ReturnType<typeof openApi> | undefined;
  return {
    async docs() {
      return page;
    },
    async openapi() {
      document ??= openApi(routes, version, examplesFor(bounds));
      return document;
    },
  };
}

/** Serves the files that the page of {@link docsRoutes} loads. */
export function mountDocsFiles(app: Express): void {
  app.get('/docs/assets/start.js', (_request, response) => {
    response.type('text/javascript').send(startScript);
  });
  app.use('/docs/assets', (_request, response, next) => {
    response.locals.route = '/docs/assets/*';
    next();
  });
  app.use('/docs/assets', express.static(swaggerUi, { index: false, maxAge: '1d', acceptRanges: false }));
}
