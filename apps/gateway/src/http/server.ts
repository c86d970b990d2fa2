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
import { type ErrorFormat, Problem } from './problem.js';
import { requestIdOf } from './requestId.js';

/**
 * Timeouts of a connection, in milliseconds.
 * - `headersTimeout`: for the head of a request to arrive.
 * - `keepAliveTimeout`: between requests. It is longer than the 60 s of common proxies, so that the proxy closes first.
 * - `lingerTimeout`: for a body that continues after its response. If the connection were closed at once, the client
 *   would not read the response.
 */
const CONNECTION_TIMEOUTS_MS = {
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

interface HttpServerOptions {
  /** Formats errors of the HTTP parser and of requests that express cannot read. */
  errorFormat: ErrorFormat;
  log: Log;
  /** Replaces some of {@link CONNECTION_TIMEOUTS_MS}. */
  timeouts?: Partial<typeof CONNECTION_TIMEOUTS_MS>;
  /** To speak HTTPS. */
  tls?: TlsFiles | undefined;
}

/** Creates a server that sends every error in one format, also where Node would send a plain response. */
export function createHttpServer(
  app: RequestListener,
  { errorFormat, log, timeouts = {}, tls }: HttpServerOptions,
): Server {
  const { lingerTimeout, ...ms } = { ...CONNECTION_TIMEOUTS_MS, ...timeouts };
  // No timeout for a whole request, because an upload may take long. Each reader of a body has its own timeouts.
  const options: ServerOptions = { ...ms, requestTimeout: 0, requireHostHeader: false };
  const listener: RequestListener = (request, response) => {
    if (URL.canParse(request.url ?? '', 'http://host')) app(request, response);
    // express would send an HTML page.
    else
      sendWithoutExpress(
        request,
        response,
        new Problem('bad_request', { detail: 'The request target is not a valid URL' }),
        errorFormat,
      );
  };
  const server: Server = tls
    ? createTlsServer({ ...options, ...tls, handshakeTimeout: HANDSHAKE_TIMEOUT_MS }, listener)
    : createServer(options, listener);
  /** The latest request of each connection. */
  const latest = new WeakMap<Duplex, { request: IncomingMessage; response: ServerResponse }>();
  const track = (request: IncomingMessage, response: ServerResponse) => {
    latest.set(request.socket, { request, response });
    response.once('finish', () => {
      if (request.complete) return;
      const timer = setTimeout(() => request.destroy(), lingerTimeout);
      request.once('close', () => clearTimeout(timer));
    });
  };
  server.on('request', track);
  // The app refuses unsupported expectations.
  server.on('checkExpectation', (request, response) => {
    track(request, response);
    listener(request, response);
  });
  // Runs before Node turns it into a clientError. A response would wait for a handshake that never ends.
  server.prependListener('tlsClientError', (err: Error, socket: Duplex) => {
    log.debug({ err }, 'TLS handshake failed');
    socket.destroy();
  });
  /** Responses must keep the order of their requests. An error inside a request's own body ends that request. */
  const sendInOrder = (socket: Duplex, problem: Problem) => {
    const current = latest.get(socket);
    const send = () => sendOnSocket(socket, problem, errorFormat, lingerTimeout);
    if (current?.request.complete && !current.response.writableFinished)
      current.response.once('finish', send);
    else send();
  };
  server.on('connect', (_request, socket) => {
    socket.on('error', () => socket.destroy());
    sendInOrder(
      socket,
      new Problem('method_not_allowed', { headers: { Allow: 'GET, HEAD, POST, OPTIONS' } }),
    );
  });
  server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    if (error.code === 'ECONNRESET' || !socket.writable) {
      socket.destroy();
      return;
    }
    const code = parserProblems[error.code ?? ''] ?? 'bad_request';
    log.debug({ code, reason: error.code }, 'Request refused by the HTTP parser');
    sendInOrder(socket, new Problem(code));
  });
  return server;
}

/** Body and header fields of a response without express, after which the connection is closed. */
function plainResponse(problem: Problem, errorFormat: ErrorFormat, requestId: string) {
  const body = JSON.stringify(errorFormat.body(problem, requestId));
  const headers = {
    ...problem.headers,
    'Content-Type': errorFormat.contentType,
    'Content-Length': Buffer.byteLength(body),
    'X-Request-Id': requestId,
    Connection: 'close',
  };
  return { body, headers };
}

/** Sends a problem as the response to a request, without express. */
function sendWithoutExpress(
  request: IncomingMessage,
  response: ServerResponse,
  problem: Problem,
  errorFormat: ErrorFormat,
): void {
  const { body, headers } = plainResponse(problem, errorFormat, requestIdOf(request));
  response.writeHead(problem.status, headers).end(body);
}

/** Sends a response on a connection without a request, and closes it. A client that does not read it is cut off. */
function sendOnSocket(socket: Duplex, problem: Problem, errorFormat: ErrorFormat, lingerMs: number): void {
  const { body, headers } = plainResponse(problem, errorFormat, randomUUID());
  socket.on('error', () => socket.destroy());
  const timer = setTimeout(() => socket.destroy(), lingerMs);
  socket.once('close', () => clearTimeout(timer));
  // A request that is interrupted by this gets its error when the socket closes.
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
