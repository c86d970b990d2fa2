import type { Route } from '@sluice/contract';
import type { Log } from '@sluice/shared';
import express, { type Express, type Request, type Response } from 'express';
import { z } from 'zod';
import type { Caller } from '../auth/authenticate.js';
import type { RateLimit, Slot } from '../limits/rateLimit.js';
import type { ReadLimit } from '../limits/readLimit.js';
import type { UsageCounter } from '../usage/usageCounter.js';
import { check, type createReadBody, hasNoBody } from './body.js';
import type { Context, Family, Handler } from './family.js';
import { crossOrigin, securityHeaders } from './headers.js';
import { ClientClosedRequest, type ErrorFormat, Problem } from './problem.js';
import { requestIdOf } from './requestId.js';
import { logWhenDone } from './requestLog.js';

/** RFC 9110 recommends at least 8,000; no URL of the API comes near. */
const MAX_URL_CHARS = 8_000;
/** Fields that may occur only once: of two values a proxy in front may use one and Sluice the other. */
const SINGLE_FIELDS = ['host', 'content-type', 'content-encoding', 'idempotency-key'];

/** The checks that a request passes on its way to the handler. */
interface Checks {
  authenticate: (request: Request, access: Exclude<Route['access'], 'open'>) => Promise<Caller | undefined>;
  rateLimit: RateLimit;
  readLimit: ReadLimit;
  usage: UsageCounter;
  readBody: ReturnType<typeof createReadBody>;
  /** Reads the body of a route for many inputs. */
  readLargeBody: ReturnType<typeof createReadBody>;
  draining: () => boolean;
  log: Log;
}

interface AppOptions extends Checks {
  /** The first one formats the errors of requests that match no route. */
  families: readonly [Family, ...Family[]];
  /** Proxies whose `X-Forwarded-For` is trusted. */
  trustProxy: readonly string[];
  /** Origins whose pages may call, or `*`. */
  corsOrigins: readonly string[];
  /** Whether the server speaks HTTPS. */
  secure: boolean;
}

/** Creates the express app. Its order is the order of the checks that a request passes. */
export function createApp(options: AppOptions): Express {
  const { families, log } = options;
  const { errorFormat } = families[0];
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.set('trust proxy', options.trustProxy);
  app.use(securityHeaders(options.secure));
  app.use((request, response, next) => {
    response.locals.requestId = requestIdOf(request);
    response.set('X-Request-Id', response.locals.requestId);
    if (options.draining()) response.set('Connection', 'close');
    logWhenDone(request, response, log);
    checkHead(request);
    next();
  });
  if (options.corsOrigins.length > 0) app.use(crossOrigin(options.corsOrigins));

  const methods = new Map<string, string[]>();
  for (const family of families) {
    family.mountFiles?.(app);
    for (const { route, handler } of family.routes) {
      app[route.method](route.path, (request, response) =>
        serve(route, handler, family.errorFormat, options, request, response),
      );
      methods.set(route.path, [
        ...(methods.get(route.path) ?? []),
        route.method === 'get' ? 'GET, HEAD' : route.method.toUpperCase(),
      ]);
    }
  }
  for (const [path, allowed] of methods) {
    const allow = [...allowed, 'OPTIONS'].join(', ');
    app.all(path, (request, response) => {
      response.locals.path = path;
      if (request.method !== 'OPTIONS')
        throw new Problem('method_not_allowed', { headers: { Allow: allow } });
      response.status(204).set('Allow', allow).end();
    });
  }
  app.use(() => {
    throw new Problem('not_found');
  });
  // express recognizes an error handler by its four parameters.
  app.use((error: unknown, _request: Request, response: Response, _next: unknown) => {
    sendProblem(problemOf(error), errorFormat, response, log);
  });
  return app;
}

/** @throws Problem for a request head that HTTP allows the parser to accept, but that must be refused */
function checkHead(request: Request): void {
  // RFC 9112, section 3.2. Node would send this response itself, without a body.
  if (request.httpVersion === '1.1' && request.headers.host === undefined) {
    throw new Problem('bad_request', { detail: 'The Host header field is missing' });
  }
  if (request.headers.expect !== undefined && !/^100-continue$/i.test(request.headers.expect)) {
    throw new Problem('expectation_failed');
  }
  if (request.url.length > MAX_URL_CHARS) throw new Problem('uri_too_long');
  for (const field of SINGLE_FIELDS) {
    if ((request.headersDistinct[field]?.length ?? 0) > 1) {
      throw new Problem('bad_request', { detail: `The header field "${field}" is present more than once` });
    }
  }
}

/** Serves one request: key → rate limit → body → handler. */
async function serve(
  route: Route,
  handler: Handler,
  errorFormat: ErrorFormat,
  { authenticate, rateLimit, readLimit, usage, readBody, readLargeBody, draining, log }: Checks,
  request: Request,
  response: Response,
): Promise<void> {
  const closed = new AbortController();
  response.on('close', () => {
    if (!response.writableFinished) closed.abort();
  });
  response.locals.path = route.path;
  let slot: Slot | undefined;
  let keyId: string | undefined;
  try {
    const caller = route.access === 'open' ? undefined : await authenticate(request, route.access);
    keyId = caller?.record.id;
    response.locals.keyId = keyId;
    if (route.limited && draining()) throw new Problem('shutting_down');
    slot = route.limited && caller ? await rateLimit.take(caller.record) : undefined;
    if (slot) response.set(slot.headers);
    if (!route.limited && caller) await readLimit.take(caller.record.id);
    const params = route.params?.safeParse(request.params);
    // Path parameters become part of names in Redis.
    if (params?.success === false) throw new Problem('not_found');
    // Log the real path only now: an unchecked path may contain a key.
    response.locals.path = request.path;
    const query = check(route.query, request.query);
    const body =
      route.body && !route.upload
        ? route.bodyOptional && hasNoBody(request)
          ? check(route.body, {})
          : await (route.largeBody ? readLargeBody : readBody)(request, response, route.body)
        : undefined;
    const answer = await handler({
      caller,
      slot,
      params: params?.data,
      query,
      body,
      signal: closed.signal,
      request,
      response,
    } as Context<Route>);
    if (slot && keyId) usage.request(keyId, response.locals.texts ?? 0);
    if (answer === undefined) return;
    response
      .status(route.success ?? 200)
      .type(route.mediaType)
      .send(typeof answer === 'string' ? answer : JSON.stringify(answer));
  } catch (error) {
    if (error instanceof ClientClosedRequest) {
      if (slot && keyId) usage.request(keyId, 0);
      return;
    }
    const problem = problemOf(error);
    const costsNothing = problem.status === 503 || problem.status === 429;
    if (keyId && route.limited && costsNothing) usage.refused(keyId);
    else if (slot && keyId) usage.request(keyId, 0);
    if (slot && costsNothing) {
      slot.refund();
      // The field was computed before the slot was returned.
      response.removeHeader('RateLimit');
    }
    sendProblem(problem, errorFormat, response, log);
  }
}

const clientErrorSchema = z.object({ status: z.number().min(400).max(499) });

/** The problem to send for an error. An unexpected error is sent as `internal_error`, without details. */
export function problemOf(error: unknown): Problem {
  if (error instanceof Problem) return error;
  if (error instanceof URIError)
    return new Problem('bad_request', { detail: 'The path has an invalid percent-encoding', cause: error });
  // Refused by express or its file server, such as a failed precondition.
  if (clientErrorSchema.safeParse(error).success)
    return new Problem('bad_request', { detail: 'The request cannot be fulfilled', cause: error });
  return new Problem('internal_error', { cause: error });
}

/** Sends a problem. A response that has begun is broken off, so that the client does not take it for complete. */
function sendProblem(problem: Problem, errorFormat: ErrorFormat, response: Response, log: Log): void {
  const { requestId } = response.locals;
  response.locals.code = problem.code;
  response.locals.cause = problem.cause;
  if (problem.cause && problem.status < 500)
    log.debug({ err: problem.cause, request_id: requestId, code: problem.code }, 'Request refused');
  if (response.headersSent) {
    response.locals.brokenOff = true;
    response.destroy();
  }
  if (response.destroyed) return;
  response
    .status(problem.status)
    .set(problem.headers)
    .set('Content-Type', errorFormat.contentType)
    .send(Buffer.from(JSON.stringify(errorFormat.body(problem, requestId))));
}
