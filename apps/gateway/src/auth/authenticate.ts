import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Route } from '@sluice/contract';
import { isLive, type KeyRecord, type Keyring, type RedisClock } from '@sluice/shared';
import { fromRedis, Problem } from '../errors/problem.js';
import type { UsageLog } from '../usage/usageLog.js';
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

const bearersOf = (headers: IncomingMessage['headersDistinct']) =>
  (headers.authorization ?? []).flatMap((field) => /^Bearer +(.+)$/i.exec(field)?.[1]?.trim() ?? []);

/**
 * The key of a request: `X-API-Key`, or `Authorization: Bearer`.
 * @param headers each field with all its values
 * @throws Problem `not_authenticated` or `conflicting_keys`
 */
export function presentedKey(headers: IncomingMessage['headersDistinct']): string {
  const bearers = bearersOf(headers);
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
export function createAuthenticate(keyring: Keyring, guesses: Guesses, usage: UsageLog, clock: RedisClock) {
  return async function authenticate(
    request: IncomingMessage & { ip?: string | undefined },
    access: Exclude<Route['access'], 'open' | 'admin'>,
  ): Promise<Caller> {
    const key = presentedKey(request.headersDistinct);
    // Read now: of a connection that is gone there is no address.
    const address = request.ip;
    const nowMs = clock.now();
    if (clock.away || nowMs === undefined) throw new Problem('unavailable');
    const record = key.length > MAX_KEY_CHARS ? undefined : await fromRedis(keyring.find(key, nowMs));
    if (record === undefined || !isLive(record, nowMs)) {
      if (record) usage.refused(record.id);
      await guesses.note(address);
      throw new Problem('invalid_api_key');
    }
    if (access !== 'key' && !record.scopes.includes(access)) {
      usage.refused(record.id);
      throw new Problem('missing_scope', { detail: `This API key lacks the scope "${access}"` });
    }
    usage.used(record, nowMs);
    return { key, record };
  };
}

const sha256 = (text: string) => createHash('sha256').update(text).digest();

/**
 * Makes the check of the operator's token, in constant time.
 * @returns a function that throws a Problem: 401, or 429 for an address that guesses
 */
export function createAuthenticateAdmin(token: string, guesses: Guesses) {
  const expected = sha256(token);
  return async function authenticateAdmin(
    request: IncomingMessage & { ip?: string | undefined },
  ): Promise<undefined> {
    const headers = { 'WWW-Authenticate': 'Bearer realm="sluice-admin"' };
    const [presented, ...others] = bearersOf(request.headersDistinct);
    if (presented === undefined) throw new Problem('not_authenticated', { headers });
    if (others.length > 0 || !timingSafeEqual(sha256(utf8(presented)), expected)) {
      await guesses.note(request.ip);
      throw new Problem('invalid_admin_token', { headers });
    }
  };
}
