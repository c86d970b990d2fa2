import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';

/** What a caller's id may look like, so that it is safe in logs and header fields. */
const SAFE_REQUEST_ID = /^[\w.:/+=-]{1,128}$/;

/** The caller's `X-Request-Id` if it is safe to use and not the key of the request, else a new one. */
export function requestIdOf({ headers }: IncomingMessage): string {
  const given = headers['x-request-id'];
  if (typeof given !== 'string' || !SAFE_REQUEST_ID.test(given)) return randomUUID();
  const keys = [headers['x-api-key'], headers.authorization].flat();
  return keys.some((key) => key?.includes(given)) ? randomUUID() : given;
}
