import type { Route } from '@sluice/contract';
import type { Log } from '@sluice/shared';
import cors from 'cors';
import express, { type Express, type Request, type RequestHandler, type Response } from 'express';
import helmet from 'helmet';
import type { Caller } from './auth/authenticate.js';
import { CallerGone, Problem } from './errors/problem.js';
import { problemOf, requestIdOf, respond } from './errors/respond.js';
import type { Place, RateLimit } from './limits/rateLimit.js';
import { mountDocsAssets } from './routes/docs.js';
import type { Context, HandlersOf } from './routes/handlers.js';
import type { UsageLog } from './usage/usageLog.js';
import { check, type createReadBody } from './validate/body.js';

/** RFC 9110 asks for 8,000 at least; no URL of the API comes near. */
const MAX_URL_CHARS = 8_000;
/** Fields that say one thing: whoever stands before us might go by another of them. */
const SINGLE_FIELDS = ['host', 'content-type', 'content-encoding', 'idempotency-key'];
/** For how long a browser may remember what it is allowed to send, in seconds. */
const PREFLIGHT_SECONDS = 600;

/** What a request meets on its way to the handler. */
interface Steps {
  authenticate: (request: Request, access: Exclude<Route['access'], 'open'>) => Promise<Caller | undefined>;
  rateLimit: RateLimit;
  usage: UsageLog;
  readBody: ReturnType<typeof createReadBody>;
  draining: () => boolean;
  log: Log;
}

interface Doors<Table extends Readonly<Record<string, Route>>> extends Steps {
  routes: Table;
  handlers: HandlersOf<Table>;
  /** Whether the reference is served. */
  publicDocs: boolean;
  /** Proxies whose `X-Forwarded-For` is believed. */
  trustProxy: readonly string[];
  /** Origins whose pages may call, or `*`. */
  corsOrigins: readonly string[];
  /** Whether it speaks HTTPS. */
  secure: boolean;
}

/** The express app of a table of routes: the order in which a request meets things. */
export function createApp<Table extends Readonly<Record<string, Route>>>(doors: Doors<Table>): Express {
  const { publicDocs, log } = doors;
  const routes: Readonly<Record<string, Route>> = doors.routes;
  const handlers = doors.handlers as unknown as Record<string, (context: Context<Route>) => Promise<unknown>>;
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.set('trust proxy', doors.trustProxy);
  app.use(securityHeaders(doors.secure));
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
    if (request.url.length > MAX_URL_CHARS) throw new Problem('uri_too_long');
    for (const field of SINGLE_FIELDS) {
      if ((request.headersDistinct[field]?.length ?? 0) > 1) {
        throw new Problem('bad_request', { detail: `The header field "${field}" comes more than once` });
      }
    }
    next();
  });
  if (doors.corsOrigins.length > 0) app.use(crossOrigin(doors.corsOrigins));

  if (publicDocs && 'docs' in routes) mountDocsAssets(app);
  const methods = new Map<string, string[]>();
  for (const [name, route] of Object.entries(routes)) {
    if (!publicDocs && (name === 'docs' || name === 'openapi')) continue;
    const handler = handlers[name];
    if (handler === undefined) throw new RangeError(`The route "${name}" has no handler`);
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

/** The header fields that browsers go by. The reference is a page with scripts and styles of its own. */
function securityHeaders(secure: boolean): RequestHandler {
  return helmet({
    contentSecurityPolicy: {
      directives: {
        'default-src': ["'self'"],
        'style-src': ["'self'", "'unsafe-inline'"],
        'font-src': ["'self'", 'data:'],
        'frame-ancestors': ["'none'"],
        'upgrade-insecure-requests': null,
      },
    },
    xFrameOptions: { action: 'deny' },
    strictTransportSecurity: secure && { maxAge: 31_536_000, includeSubDomains: false },
  });
}

/** Lets pages of other origins call and read the answers (https://fetch.spec.whatwg.org/#http-cors-protocol). */
function crossOrigin(origins: readonly string[]): RequestHandler {
  return cors({
    origin: origins.includes('*') ? '*' : [...origins],
    methods: ['GET', 'POST', 'DELETE'],
    allowedHeaders: [
      'Accept',
      'Authorization',
      'Content-Type',
      'Idempotency-Key',
      'X-API-Key',
      'X-Request-Id',
    ],
    exposedHeaders: ['Location', 'RateLimit', 'RateLimit-Policy', 'Retry-After', 'X-Request-Id'],
    maxAge: PREFLIGHT_SECONDS,
    // The route answers: one that is not there is not allowed either.
    preflightContinue: true,
  });
}

/** One request on its way: key → rate limit → body → handler. */
async function serve(
  route: Route,
  handler: (context: Context<Route>) => Promise<unknown>,
  { authenticate, rateLimit, usage, readBody, draining, log }: Steps,
  request: Request,
  response: Response,
): Promise<void> {
  const hungUp = new AbortController();
  response.on('close', () => {
    if (!response.writableFinished) hungUp.abort();
  });
  let place: Place | undefined;
  let keyId: string | undefined;
  try {
    const caller = route.access === 'open' ? undefined : await authenticate(request, route.access);
    keyId = caller?.record.id;
    response.locals.keyId = keyId;
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
    if (place && keyId) usage.request(keyId, response.locals.texts ?? 0);
    if (answer === undefined) return;
    response
      .status(route.success ?? 200)
      .type(route.mediaType)
      .send(typeof answer === 'string' ? answer : JSON.stringify(answer));
  } catch (error) {
    if (error instanceof CallerGone) {
      if (place && keyId) usage.request(keyId, 0);
      return;
    }
    const problem = problemOf(error);
    const costsNothing = problem.status === 503 || problem.status === 429;
    if (keyId && route.limited && costsNothing) usage.refused(keyId);
    else if (place && keyId) usage.request(keyId, 0);
    if (place && costsNothing) {
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

/** Refusals that tell of somebody who tries keys: the operator wants to know from where. */
const FAILED_AUTHENTICATION: ReadonlySet<string> = new Set([
  'invalid_api_key',
  'invalid_admin_token',
  'too_many_failures',
]);

/** One line a request: never its text, its key or its query. */
function logWhenDone(request: Request, response: Response, log: Log): void {
  const startedMs = performance.now();
  const { ip } = request;
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
        ...(FAILED_AUTHENTICATION.has(code) ? { address: ip } : {}),
      },
      'request',
    );
  });
}
