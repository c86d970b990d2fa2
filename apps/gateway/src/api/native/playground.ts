import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import express, { type Express } from 'express';
import type { NativeHandlers } from './handlers.js';

const packageFile = createRequire(import.meta.url).resolve('@sluice/playground/package.json');
const folder = dirname(packageFile);
const ofPlayground = createRequire(packageFile);
const client = ofPlayground.resolve('@sluice/client');
const tables = ofPlayground.resolve('@sluice/tables');
const ofTables = createRequire(tables);

/** Folders of the page, each with the path below `/playground` where its files are. Modules are found by the page's import map. */
const FOLDERS: readonly (readonly [string, string])[] = [
  ['', join(folder, 'public')],
  ['', join(folder, 'dist')],
  ['client', dirname(client)],
  ['eventsource-parser', dirname(createRequire(client).resolve('eventsource-parser'))],
  ['tables', dirname(tables)],
  ['csv-parse', dirname(ofTables.resolve('csv-parse/browser/esm/sync'))],
  ['csv-stringify', dirname(ofTables.resolve('csv-stringify/browser/esm/sync'))],
];

const page = readFileSync(join(folder, 'public/index.html'), 'utf8');

/** The page runs scripts of this server and its import map, and connects to this server only. */
const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  `script-src 'self' '${hashOf(/<script type="importmap">([^<]*)<\/script>/.exec(page)?.[1] ?? '')}'`,
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
].join('; ');

/** A source expression for an inline script (https://www.w3.org/TR/CSP3/#grammardef-hash-source). */
function hashOf(script: string): string {
  return `sha256-${createHash('sha256').update(script).digest('base64')}`;
}

/** Handler of the page on which people try the models. */
export function playgroundRoutes(): Pick<NativeHandlers, 'playground'> {
  return {
    async playground({ response }) {
      response.set({ 'Content-Security-Policy': CONTENT_SECURITY_POLICY, 'Referrer-Policy': 'no-referrer' });
      return page;
    },
  };
}

/** Serves the files that the page of {@link playgroundRoutes} loads. */
export function mountPlaygroundFiles(app: Express): void {
  for (const [path, files] of FOLDERS)
    app.use(
      `/playground/${path}`,
      (_request, response, next) => {
        response.locals.route = '/playground/*';
        next();
      },
      express.static(files, { index: false, maxAge: 0, acceptRanges: false, dotfiles: 'ignore' }),
    );
}
