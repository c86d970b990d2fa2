import { randomUUID } from 'node:crypto';
import { type IncomingMessage, type Server, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { ProblemCode } from '@sluice/contract';
import type { Log } from '@sluice/shared';
import type { Response } from 'express';
import { Problem } from './problem.js';

const SANE_REQUEST_ID = /^[\w.:/+=-]{1,128}$/;

/** The caller's `X-Request-Id` if it sent a sane one, else a new one. */
export function requestIdOf(request: IncomingMessage): string {
  const given = request.headers['x-request-id'];
  return typeof given === 'string' && SANE_REQUEST_ID.test(given) ? given : randomUUID();
}

/** What the client is told of an error: a Problem as it is; anything else is ours, and it hears no more than that. */
export function problemOf(error: unknown): Problem {
  if (error instanceof Problem) return error;
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

const parserProblems: Readonly<Record<string, ProblemCode>> = {
  HPE_HEADER_OVERFLOW: 'headers_too_large',
  ERR_HTTP_REQUEST_TIMEOUT: 'request_timed_out',
};

/** Answers what the HTTP parser refuses, before there is a request for express. */
export function answerParserErrors(server: Server, log: Log): void {
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => {
    if (error.code === 'ECONNRESET' || !socket.writable) {
      socket.destroy();
      return;
    }
    const problem = new Problem(parserProblems[error.code ?? ''] ?? 'bad_request');
    const requestId = randomUUID();
    log.debug({ request_id: requestId, code: error.code }, 'Refused by the HTTP parser');
    const body = JSON.stringify(problem.body(requestId));
    socket.end(
      [
        `HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status]}`,
        'Content-Type: application/problem+json',
        `Content-Length: ${Buffer.byteLength(body)}`,
        `X-Request-Id: ${requestId}`,
        'Connection: close',
        '',
        body,
      ].join('\r\n'),
    );
  });
}
