import { failSpan, type Log, type Span } from '@sluice/shared';
import type { Request, Response } from 'express';
import { plainAddress } from './address.js';

/** Checks that come every few seconds. */
export const HEALTH_PATHS: ReadonlySet<string> = new Set(['/health', '/ready', '/metrics']);

/** Errors after which the operator needs the client's address. */
const FAILED_AUTHENTICATION: ReadonlySet<string> = new Set([
  'invalid_api_key',
  'invalid_admin_token',
  'too_many_failures',
]);

/** The path of a request that matches no route; a caller may have put a key or a text into it. */
export const UNKNOWN_PATH = '(no route)';

function levelOf(path: string, status: number): 'debug' | 'info' | 'warn' | 'error' {
  if (status >= 500) return status === 503 ? 'warn' : 'error';
  // Health checks are only interesting when they fail.
  return HEALTH_PATHS.has(path) && status === 200 ? 'debug' : 'info';
}

/** A request that is done. */
export interface DoneRequest {
  method: string;
  /** The path of its route with the names of its parameters, such as `/jobs/:id`; undefined without a route. */
  route: string | undefined;
  /** 499 if the client closed the connection before the response. */
  status: number;
  /** Code of the error that was sent. */
  code: string | undefined;
  keyId: string | undefined;
  ms: number;
}

/**
 * When a request is done, logs one line and ends its span. The line of a 5xx has its cause. Neither contains the body, key or
 * query.
 */
export function reportWhenDone(
  request: Request,
  response: Response,
  { span, onDone, log }: { span: Span | undefined; onDone: (done: DoneRequest) => void; log: Log },
): void {
  const startedMs = performance.now();
  const { ip } = request;
  response.on('close', () => {
    const { requestId, keyId, route, code, cause, brokenOff } = response.locals;
    const { method } = request;
    const ms = performance.now() - startedMs;
    // 499: the client closed the connection before the response (as nginx logs it).
    const status = response.writableFinished ? response.statusCode : brokenOff ? 500 : 499;
    // Without a route it is a file of the reference, whose path is no secret, or an error.
    const path = response.locals.path ?? (status < 400 ? request.originalUrl.split('?', 1)[0] : UNKNOWN_PATH);
    log[levelOf(path, status)](
      {
        request_id: requestId,
        method,
        path,
        status,
        ms: Math.round(ms),
        ...(keyId ? { key_id: keyId } : {}),
        ...(code ? { code } : {}),
        ...(status >= 500 && cause ? { err: cause } : {}),
        ...(FAILED_AUTHENTICATION.has(code) ? { address: plainAddress(ip) } : {}),
      },
      'Request completed',
    );
    onDone({ method, route, status, code, keyId, ms });
    if (span === undefined) return;
    if (route) span.updateName(`${method} ${route}`).setAttribute('http.route', route);
    span.setAttributes({ 'http.response.status_code': status, ...(keyId ? { 'sluice.key_id': keyId } : {}) });
    if (status >= 500) failSpan(span, code ?? String(status));
    span.end();
  });
}
