import { randomUUID } from 'node:crypto';
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerOptions,
  type ServerResponse,
  STATUS_CODES,
} from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { Duplex } from 'node:stream';
import type { ProblemCode } from '@sluice/contract';
import type { Log } from '@sluice/shared';
import type { Response } from 'express';
import { z } from 'zod';
import { Problem } from './problem.js';

const clientErrorSchema = z.object({ status: z.number().min(400).max(499) });
const SANE_REQUEST_ID = /^[\w.:/+=-]{1,128}$/;

/** The caller's `X-Request-Id` if it sent a sane one, else a new one. */
export function requestIdOf(request: IncomingMessage): string {
  const given = request.headers['x-request-id'];
  return typeof given === 'string' && SANE_REQUEST_ID.test(given) ? given : randomUUID();
}

/** What the client is told of an error: a Problem as it is; anything else is ours, and it hears no more than that. */
export function problemOf(error: unknown): Problem {
  if (error instanceof Problem) return error;
  // What express and its file server refuse, such as a precondition.
  const refused = clientErrorSchema.safeParse(error);
  if (refused.success)
    return new Problem('bad_request', { detail: 'The request cannot be met', cause: error });
  return new Problem('internal_error', { cause: error });
}

/** Answers a request with a problem, if it can still be answered. */
export function respond(response: Response, problem: Problem, requestId: string): void {
  if (response.headersSent || response.destroyed) return;
  response
    .status(problem.status)
    .set(problem.headers)
    .set('Content-Type', 'application/problem+json')
    .send(Buffer.from(JSON.stringify(problem.body(requestId))));
}

/**
 * When a connection is given up, in milliseconds: `headersTimeout` for a head that does not arrive whole,
 * `keepAliveTimeout` between requests (longer than the minute that proxies keep theirs, so that they close first),
 * `lingerTimeout` for a body that goes on after its answer: cut off at once, a client would not read that.
 */
export const CONNECTION_TIMEOUTS_MS = {
  headersTimeout: 10_000,
  connectionsCheckingInterval: 1_000,
  keepAliveTimeout: 75_000,
  lingerTimeout: 5_000,
};
const HANDSHAKE_TIMEOUT_MS = 10_000;

/** A certificate and its private key, in PEM. */
export interface TlsFiles {
  cert: Buffer;
  key: Buffer;
}

const parserProblems: Readonly<Record<string, ProblemCode>> = {
  HPE_HEADER_OVERFLOW: 'headers_too_large',
  ERR_HTTP_REQUEST_TIMEOUT: 'request_timed_out',
};

/**
 * A server whose every answer is the app's or a problem, also to what Node would refuse by itself.
 * @param timeouts instead of {@link CONNECTION_TIMEOUTS_MS}
 * @param tls to speak HTTPS
 */
export function createProblemServer(
  app: RequestListener,
  log: Log,
  timeouts: Partial<typeof CONNECTION_TIMEOUTS_MS> = {},
  tls?: TlsFiles,
): Server {
  const { lingerTimeout, ...ms } = { ...CONNECTION_TIMEOUTS_MS, ...timeouts };
  // No limit to all of a request: an upload takes its time. Each reader of a body watches for silence.
  const options: ServerOptions = { ...ms, requestTimeout: 0, requireHostHeader: false };
  const listener: RequestListener = (request, response) => {
    if (URL.canParse(request.url ?? '', 'http://host')) app(request, response);
    // express would answer it by itself, as a page.
    else
      answerPlain(request, response, new Problem('bad_request', { detail: 'The request target is no URL' }));
  };
  const server: Server = tls
    ? createTlsServer({ ...options, ...tls, handshakeTimeout: HANDSHAKE_TIMEOUT_MS }, listener)
    : createServer(options, listener);
  /** What a connection is at. */
  const current = new WeakMap<Duplex, { request: IncomingMessage; response: ServerResponse }>();
  const begin = (request: IncomingMessage, response: ServerResponse) => {
    current.set(request.socket, { request, response });
    response.once('finish', () => {
      if (request.complete) return;
      const late = setTimeout(() => request.destroy(), lingerTimeout);
      request.once('close', () => clearTimeout(late));
    });
  };
  server.on('request', begin);
  // express refuses what is expected and not understood.
  server.on('checkExpectation', (request, response) => {
    begin(request, response);
    listener(request, response);
  });
  // Before Node makes a clientError of it: an answer would wait for a handshake that never ends, and so would the socket.
  server.prependListener('tlsClientError', (err: Error, socket: Duplex) => {
    log.debug({ err }, 'A connection failed before it was secure');
    socket.destroy();
  });
  /** What comes behind a request is not answered before it; a body that breaks off is the end of its own. */
  const refuseNext = (socket: Duplex, problem: Problem) => {
    const running = current.get(socket);
    const refuse = () => answerRaw(socket, problem, lingerTimeout);
    if (running?.request.complete && !running.response.writableFinished)
      running.response.once('finish', refuse);
    else refuse();
  };
  server.on('connect', (_request, socket) => {
    socket.on('error', () => socket.destroy());
    refuseNext(socket, new Problem('method_not_allowed', { headers: { Allow: 'GET, HEAD, POST, OPTIONS' } }));
  });
  server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    if (error.code === 'ECONNRESET' || !socket.writable) {
      socket.destroy();
      return;
    }
    const code = parserProblems[error.code ?? ''] ?? 'bad_request';
    log.debug({ code, reason: error.code }, 'Refused by the HTTP parser');
    refuseNext(socket, new Problem(code));
  });
  return server;
}

/** An answer without express, behind which the connection closes. */
function plainAnswer(problem: Problem, requestId: string) {
  const body = JSON.stringify(problem.body(requestId));
  const headers = {
    ...problem.headers,
    'Content-Type': 'application/problem+json',
    'Content-Length': Buffer.byteLength(body),
    'X-Request-Id': requestId,
    Connection: 'close',
  };
  return { body, headers };
}

/** Answers a request that express cannot read, in its turn. */
function answerPlain(request: IncomingMessage, response: ServerResponse, problem: Problem): void {
  const { body, headers } = plainAnswer(problem, requestIdOf(request));
  response.writeHead(problem.status, headers).end(body);
}

/** Answers where there is no request, and closes; a client that does not read the answer is not waited for. */
function answerRaw(socket: Duplex, problem: Problem, lingerMs: number): void {
  const { body, headers } = plainAnswer(problem, randomUUID());
  socket.on('error', () => socket.destroy());
  const late = setTimeout(() => socket.destroy(), lingerMs);
  socket.once('close', () => clearTimeout(late));
  // The request that is cut off by this hears of it when the socket closes.
  socket.end(
    [
      `HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status]}`,
      ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
      '',
      body,
    ].join('\r\n'),
    () => socket.destroy(),
  );
}
