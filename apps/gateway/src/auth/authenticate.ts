import type { IncomingMessage } from 'node:http';
import type { Route } from '@sluice/contract';
import { isLive, type KeyRecord, type Keyring, type RedisClock } from '@sluice/shared';
import { fromRedis, Problem } from '../errors/problem.js';
import type { Guesses } from './guesses.js';

/** Who sent a request. */
export interface Caller {
  /** The key itself, as it was presented. */
  key: string;
  record: KeyRecord;
}

/** Longer than any key that can be made. */
const MAX_KEY_CHARS = 512;

/**
 * The key of a request: `X-API-Key`, or `Authorization: Bearer`.
 * @throws Problem `not_authenticated` or `conflicting_keys`
 */
export function presentedKey(headers: IncomingMessage['headers']): string {
  const named = headers['x-api-key'];
  const bearer = /^Bearer +(\S+) *$/i.exec(headers.authorization ?? '')?.[1];
  const challenge = { headers: { 'WWW-Authenticate': 'Bearer realm="sluice"' } };
  if (typeof named === 'string' && named !== '' && bearer !== undefined && named !== bearer) {
    throw new Problem('conflicting_keys', challenge);
  }
  const key = (typeof named === 'string' && named) || bearer;
  if (!key) throw new Problem('not_authenticated', challenge);
  return key;
}

/**
 * Makes the check of a request's key: one look-up in Redis, nothing cached.
 * @returns a function that resolves to the caller, and throws a Problem: 401, 403, 429 for an address that guesses,
 *   503 when Redis is away
 */
export function createAuthenticate(keyring: Keyring, guesses: Guesses, clock: RedisClock) {
  return async function authenticate(
    request: IncomingMessage & { ip?: string | undefined },
    access: Exclude<Route['access'], 'open'>,
  ): Promise<Caller> {
    const key = presentedKey(request.headers);
    const nowMs = clock.now();
    if (clock.away || nowMs === undefined) throw new Problem('unavailable');
    const record = key.length > MAX_KEY_CHARS ? undefined : await fromRedis(keyring.find(key));
    if (record === undefined || !isLive(record, nowMs)) {
      await guesses.note(request.ip ?? 'unknown');
      throw new Problem('invalid_api_key');
    }
    if (access !== 'key' && !record.scopes.includes(access)) {
      throw new Problem('missing_scope', { detail: `This API key lacks the scope "${access}"` });
    }
    return { key, record };
  };
}
