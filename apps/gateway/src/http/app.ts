import { type Route, statusOf } from '@sluice/contract';
import { inSpan, type Log, SpanKind, startSpan } from '@sluice/shared';
import express, { type Express, type Request, type Response } from 'express';
import * as z from 'zod';
import type { Caller } from '../auth/authenticate.js';
import type { RateLimit, Slot } from '../limits/rateLimit.js';
import type { ReadLimit } from '../limits/readLimit.js';
import type { UsageCounter } from '../usage/usageCounter.js';
import { bytesOf, check, createReadBody, hasNoBody, LARGE_BODIES } from './body.js';
import type { Context, Family, Handler } from './family.js';
import { crossOrigin, securityHeaders } from './headers.js';
import { ClientClosedRequest, type ErrorFormat, Problem } from './problem.js';
import { requestIdOf } from './requestId.js';
import { type DoneRequest, HEALTH_PATHS, reportWhenDone } from './requestLog.js';

/** RFC 9110 recommends at least 8,000; no URL of the API comes near. */
const MAX_URL_CHARS = 8_000;
/** Fields that may occur only once: of two values a proxy in front may use one and Sluice the other. */
const SINGLE_FIELDS = ['host', 'content-type', 'content-encoding', 'idempotency-key'];

/** The checks that a request passes on its way to the handler. */
interface Checks {
  authenticate: (request: Request, access: Exclude<Route['access'], 'open'>) => Promise<Caller | undefined>;
  /** The refusal of a request that would be overloaded with any valid body. */
  overload: (route: Route, request: Request) => Problem | undefined;
  rateLimit: RateLimit;
  readLimit: ReadLimit;
  usage: UsageCounter;
  /** Maximum size of a body; of a route for many inputs it is {@link LARGE_BODIES} times as large. */
  maxBodyBytes: number;
  draining: () => boolean;
  log: Log;
}

interface AppOptions extends Checks {
  families: readonly Family[];
  /** The errors of requests that match no route, or a path that several families share until the body is read. */
  errorFormat: ErrorFormat;
  /** Proxies whose `X-Forwarded-For` is trusted. */
  trustProxy: readonly string[];
  /** Origins whose pages may call, or `*`. */
  corsOrigins: readonly string[];
  /** Whether the server speaks HTTPS. */
  secure: boolean;
  /** Whether requests have spans. */
  traced: boolean;
  /** Called with each request that is done. */
  onDone: (request: DoneRequest) => void;
}

/** The app, and what ends its requests. */
interface App {
  app: Express;
  /** Answers all requests in progress with 503 `shutting_down`, whatever they wait for. */
  giveUp(): void;
}

/** Creates the express app. Its order is the order of the checks that a request passes. */
export function createApp(options: AppOptions): App {
  const { families, errorFormat, traced, onDone, log } = options;
  const inProgress: InProgress = new Set();
  const serve = createServe(options, inProgress);
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.set('trust proxy', options.trustProxy);
  app.use(securityHeaders(options.secure));
  app.use((request, response, next) => {
    response.locals.requestId = requestIdOf(request);
    response.set('X-Request-Id', response.locals.requestId);
    if (options.draining()) response.set('Connection', 'close');
    const span =
      traced && !HEALTH_PATHS.has(request.path)
        ? startSpan(request.method, {
            kind: SpanKind.SERVER,
            attributes: {
              'http.request.method': request.method,
              'sluice.request_id': response.locals.requestId,
            },
            parent: request.headers,
          })
        : undefined;
    reportWhenDone(request, response, { span, onDone, log });
    checkHead(request);
    if (span) inSpan(span, next);
    else next();
  });
  if (options.corsOrigins.length > 0) app.use(crossOrigin(options.corsOrigins));

  const methods = new Map<string, string[]>();
  /** The errors of paths that one family has alone. */
  const formats = new Map<string, ErrorFormat>();
  for (const [first, ...others] of endpointsOf(families)) {
    const { method, path, takes } = first.route;
    app[method](path, (request, response, next) =>
      takes && !takes(request.params) ? next() : serve([first, ...others], request, response),
    );
    const format = others.length === 0 ? first.family.errorFormat : errorFormat;
    formats.set(path, (formats.get(path) ?? format) === format ? format : errorFormat);
    methods.set(path, [...(methods.get(path) ?? []), method === 'get' ? 'GET, HEAD' : method.toUpperCase()]);
  }
  for (const { mountFiles } of families) mountFiles?.(app);
  for (const [path, allowed] of methods) {
    const allow = [...allowed, 'OPTIONS'].join(', ');
    app.all(path, (request, response) => {
      response.locals.path = path;
      response.locals.route = path;
      response.locals.errorFormat = formats.get(path);
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
    sendProblem(problemOf(error), response.locals.errorFormat ?? errorFormat, response, log);
  });
  return {
    app,
    giveUp: () => {
      for (const giveUp of inProgress) giveUp(new Problem('shutting_down'));
    },
  };
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

/** A route with its handler and its family. */
interface Endpoint {
  route: Route;
  handler: Handler;
  family: Family;
}

type Endpoints = readonly [Endpoint, ...Endpoint[]];

/** What families that share a path must agree on, since it is needed before the body decides whose request it is. */
const AGREED = ['access', 'limited', 'task'] as const;

/** The routes of all families; those with the same method and path are together. */
function endpointsOf(families: readonly Family[]): Endpoints[] {
  const found = new Map<string, Endpoints>();
  for (const family of families) {
    for (const { route, handler } of family.routes) {
      const name = `${route.method} ${route.path}`;
      const endpoint = { route, handler, family };
      const known = found.get(name);
      if (known && AGREED.some((field) => known[0].route[field] !== route[field]))
        throw new RangeError(`The families that share ${name} must agree on its ${AGREED.join(', ')}`);
      found.set(name, known ? [...known, endpoint] : [endpoint]);
    }
  }
  return [...found.values()];
}

/** The endpoint whose own field the body has, else the one without such a field. */
function chosen([first, ...others]: Endpoints, body: unknown): Endpoint {
  const has = (field: string) => typeof body === 'object' && body !== null && Object.hasOwn(body, field);
  const all = [first, ...others];
  return (
    all.find(({ route: { ownField } }) => ownField !== undefined && has(ownField)) ??
    all.find(({ route: { ownField } }) => ownField === undefined) ??
    first
  );
}

/** For each request in progress a function that ends it with a problem. */
type InProgress = Set<(problem: Problem) => void>;

/** Creates the function that serves one request: key → overload → rate limit → body → handler. */
function createServe(
  {
    authenticate,
    overload,
    rateLimit,
    readLimit,
    usage,
    maxBodyBytes,
    errorFormat: commonFormat,
    log,
  }: AppOptions,
  inProgress: InProgress,
) {
  const readBody = createReadBody(maxBodyBytes);
  const readLargeBody = createReadBody(LARGE_BODIES * maxBodyBytes);

  /** Reads the body, by which the endpoint is chosen. */
  async function readEndpoint(
    endpoints: Endpoints,
    request: Request,
    response: Response,
  ): Promise<Endpoint & { json: unknown }> {
    const [{ route }] = endpoints;
    if (route.bodyOptional && hasNoBody(request)) return { ...endpoints[0], json: {} };
    const mayBeLarge = endpoints.some((endpoint) => endpoint.route.largeBody);
    const json = await (mayBeLarge ? readLargeBody : readBody)(request, response);
    return { ...chosen(endpoints, json), json };
  }

  return async function serve(endpoints: Endpoints, request: Request, response: Response): Promise<void> {
    const closed = new AbortController();
    response.on('close', () => {
      if (!response.writableFinished) closed.abort();
    });
    let endpoint = endpoints[0];
    const { route } = endpoint;
    let errorFormat = endpoints.length === 1 ? endpoint.family.errorFormat : commonFormat;
    response.locals.path = route.path;
    response.locals.route = route.path;
    let slot: Slot | undefined;
    let keyId: string | undefined;
    let isDone = false;
    const setLimitHeaders = () => {
      if (slot && !response.headersSent)
        response.set({ ...slot.headers, ...endpoint.family.limitHeaders?.(slot.windows) });
    };
    /** The checks in their order, then the handler. */
    const answerOf = async () => {
      const caller = route.access === 'open' ? undefined : await authenticate(request, route.access);
      keyId = caller?.record.id;
      response.locals.keyId = keyId;
      const refusal = route.limited ? overload(route, request) : undefined;
      if (refusal) throw refusal;
      slot = route.limited && caller ? await rateLimit.take(caller.record) : undefined;
      if (isDone) {
        slot?.refund();
        throw new ClientClosedRequest();
      }
      setLimitHeaders();
      if (!route.limited && caller) await readLimit.take(caller.record.id);
      const params = route.params?.safeParse(request.params);
      // Path parameters become part of names in Redis.
      if (params?.success === false) throw new Problem('not_found');
      // Log the real path only now: an unchecked path may contain a key.
      response.locals.path = request.path;
      const query = check(route.query, request.query);
      let body: unknown;
      if (route.body && !route.upload) {
        const { json, ...found } = await readEndpoint(endpoints, request, response);
        endpoint = found;
        errorFormat = endpoint.family.errorFormat;
        if (!endpoint.route.largeBody && bytesOf(request).length > maxBodyBytes)
          throw new Problem('body_too_large');
        body = check(endpoint.route.body, json);
      }
      return endpoint.handler({
        caller,
        slot,
        params: params?.data,
        query,
        body,
        signal: closed.signal,
        request,
        response,
      } as Context<Route>);
    };
    let giveUp: (problem: Problem) => void = () => {};
    const givenUp = new Promise<never>((_, reject) => {
      giveUp = (problem) => {
        reject(problem);
        closed.abort(problem);
      };
    });
    inProgress.add(giveUp);
    try {
      const answer = await Promise.race([answerOf(), givenUp]);
      if (slot && keyId) usage.request(keyId, response.locals.texts ?? 0);
      if (answer === undefined) return;
      setLimitHeaders();
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
      if (!costsNothing) setLimitHeaders();
      else if (slot) {
        slot.refund();
        // These fields were computed before the slot was returned.
        for (const name of ['RateLimit', ...Object.keys(endpoint.family.limitHeaders?.(slot.windows) ?? {})])
          response.removeHeader(name);
      }
      sendProblem(problem, errorFormat, response, log);
    } finally {
      isDone = true;
      inProgress.delete(giveUp);
    }
  };
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
    .status(statusOf(errorFormat.errors, problem.code))
    .set({ ...problem.headers, ...errorFormat.headers?.(problem) })
    .set('Content-Type', errorFormat.contentType)
    .send(Buffer.from(JSON.stringify(errorFormat.body(problem, requestId))));
}
