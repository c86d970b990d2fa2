import type { Route, RouteName, Routes } from '@sluice/contract';
import type { Log } from '@sluice/shared';
import express, { type Express, type Request, type Response } from 'express';
import type { createAuthenticate } from './auth/authenticate.js';
import { CallerGone, Problem } from './errors/problem.js';
import { problemOf, requestIdOf, respond } from './errors/respond.js';
import type { Place, RateLimit } from './limits/rateLimit.js';
import { mountDocsAssets } from './routes/docs.js';
import type { Context, Handlers } from './routes/handlers.js';
import { check, type createReadBody } from './validate/body.js';

interface Doors {
  routes: Routes;
  handlers: Handlers;
  authenticate: ReturnType<typeof createAuthenticate>;
  rateLimit: RateLimit;
  readBody: ReturnType<typeof createReadBody>;
  draining: () => boolean;
  /** Whether the reference is served. */
  publicDocs: boolean;
  log: Log;
}

/** The express app: the order in which a request meets things. */
export function createApp(doors: Doors): Express {
  const { routes, publicDocs, log } = doors;
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.use((request, response, next) => {
    response.locals.requestId = requestIdOf(request);
    response.set('X-Request-Id', response.locals.requestId);
    if (doors.draining()) response.set('Connection', 'close');
    logWhenDone(request, response, log);
    // RFC 9112, section 3.2. Node would answer this itself, without a problem.
    if (request.httpVersion === '1.1' && request.headers.host === undefined) {
      throw new Problem('bad_request', { detail: 'The Host header field is missing' });
    }
    if (request.headers.expect !== undefined && !/^100-continue$/i.test(request.headers.expect)) {
      throw new Problem('expectation_failed');
    }
    next();
  });

  if (publicDocs) mountDocsAssets(app);
  const methods = new Map<string, string[]>();
  for (const name of Object.keys(routes) as RouteName[]) {
    const route = routes[name];
    if (!publicDocs && (name === 'docs' || name === 'openapi')) continue;
    const handler = doors.handlers[name] as (context: Context<Route>) => Promise<unknown>;
    app[route.method](route.path, (request, response) => serve(route, handler, doors, request, response));
    methods.set(route.path, [
      ...(methods.get(route.path) ?? []),
      route.method === 'get' ? 'GET, HEAD' : route.method.toUpperCase(),
    ]);
  }
  for (const [path, allowed] of methods) {
    const allow = [...allowed, 'OPTIONS'].join(', ');
    app.all(path, (request, response) => {
      if (request.method !== 'OPTIONS')
        throw new Problem('method_not_allowed', { headers: { Allow: allow } });
      response.status(204).set('Allow', allow).end();
    });
  }
  app.use(() => {
    throw new Problem('not_found');
  });
  // express knows an error handler by its four parameters.
  app.use((error: unknown, _request: Request, response: Response, _next: unknown) => {
    refuse(problemOf(error), response, log);
  });
  return app;
}

/** One request on its way: key → rate limit → body → handler. */
async function serve(
  route: Route,
  handler: (context: Context<Route>) => Promise<unknown>,
  { authenticate, rateLimit, readBody, draining, log }: Doors,
  request: Request,
  response: Response,
): Promise<void> {
  const hungUp = new AbortController();
  response.on('close', () => {
    if (!response.writableFinished) hungUp.abort();
  });
  let place: Place | undefined;
  try {
    const caller = route.access === 'open' ? undefined : await authenticate(request, route.access);
    response.locals.keyId = caller?.record.id;
    if (route.limited && draining()) throw new Problem('shutting_down');
    place = route.limited && caller ? await rateLimit.take(caller.record) : undefined;
    if (place) response.set(place.headers);
    const params = check(route.params, request.params);
    const query = check(route.query, request.query);
    const body = route.body && !route.upload ? await readBody(request, response, route.body) : undefined;
    const { signal } = hungUp;
    const answer = await handler({
      caller,
      place,
      params,
      query,
      body,
      signal,
      request,
      response,
    } as Context<Route>);
    if (answer === undefined) return;
    response
      .status(route.success ?? 200)
      .type(route.mediaType)
      .send(typeof answer === 'string' ? answer : JSON.stringify(answer));
  } catch (error) {
    if (error instanceof CallerGone) return;
    const problem = problemOf(error);
    if (place && (problem.status === 503 || problem.status === 429)) {
      place.refund();
      // It told what was left with this request counted, and this request does not count.
      response.removeHeader('RateLimit');
    }
    refuse(problem, response, log);
  }
}

function refuse(problem: Problem, response: Response, log: Log): void {
  const { requestId } = response.locals;
  if (problem.code === 'internal_error')
    log.error({ err: problem.cause, request_id: requestId }, 'Unexpected error');
  else if (problem.cause)
    log.debug({ err: problem.cause, request_id: requestId, code: problem.code }, 'Refused');
  response.locals.code = problem.code;
  respond(response, problem, requestId);
}

const PROBES: ReadonlySet<string> = new Set(['/health', '/ready']);

/** One line a request: never its text, its key or its query. */
function logWhenDone(request: Request, response: Response, log: Log): void {
  const startedMs = performance.now();
  response.on('close', () => {
    const { requestId, keyId, code } = response.locals;
    // Probes come every few seconds and say nothing while they are answered.
    const level = PROBES.has(request.path) && response.statusCode === 200 ? 'debug' : 'info';
    log[level](
      {
        request_id: requestId,
        method: request.method,
        path: request.path,
        status: response.writableFinished ? response.statusCode : 499,
        ms: Math.round(performance.now() - startedMs),
        ...(keyId ? { key_id: keyId } : {}),
        ...(code ? { code } : {}),
      },
      'request',
    );
  });
}
