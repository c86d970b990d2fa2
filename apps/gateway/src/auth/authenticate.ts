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

/** Node gives header fields as Latin-1; a key that is no ASCII comes in UTF-8. */
const utf8 = (field: string) => Buffer.from(field, 'latin1').toString('utf8');

/**
 * The key of a request: `X-API-Key`, or `Authorization: Bearer`.
 * @param headers each field with all its values
 * @throws Problem `not_authenticated` or `conflicting_keys`
 */
export function presentedKey(headers: IncomingMessage['headersDistinct']): string {
  const bearers = (headers.authorization ?? []).flatMap((field) => /^Bearer +(.+)$/i.exec(field)?.[1] ?? []);
  const keys = new Set(
    [...(headers['x-api-key'] ?? []), ...bearers].map((key) => key.trim()).filter(Boolean),
  );
  const [key, ...others] = keys;
  const challenge = { headers: { 'WWW-Authenticate': 'Bearer realm="sluice"' } };
  if (others.length > 0) throw new Problem('conflicting_keys', challenge);
  if (key === undefined) throw new Problem('not_authenticated', challenge);
  return utf8(key);
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
    const key = presentedKey(request.headersDistinct);
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
