import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Route } from '@sluice/contract';
import { isLive, type KeyRecord, type Keyring, type RedisClock } from '@sluice/shared';
import { fromRedis, Problem } from '../http/problem.js';
import type { UsageCounter } from '../usage/usageCounter.js';
import type { FailedAuthentications } from './failedAuthentications.js';

/** The sender of a request. */
export interface Caller {
  /** The key itself, as it was sent. */
  key: string;
  record: KeyRecord;
}

/** Longer than any valid key. */
const MAX_KEY_CHARS = 512;

/** Node decodes header fields as Latin-1, but a key may contain UTF-8. */
const utf8 = (field: string) => Buffer.from(field, 'latin1').toString('utf8');

const bearerTokens = (headers: IncomingMessage['headersDistinct']) =>
  (headers.authorization ?? []).flatMap((field) => /^Bearer +(.+)$/i.exec(field)?.[1]?.trim() ?? []);

/**
 * The key of a request, from `X-API-Key` or `Authorization: Bearer`.
 * @param headers each field with all its values
 * @throws Problem `not_authenticated` or `conflicting_keys`
 */
export function keyOf(headers: IncomingMessage['headersDistinct']): string {
  const bearers = bearerTokens(headers);
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
 * Creates the check of a request's key. It reads the key's record from Redis each time, without a cache.
 * @returns a function that resolves to the caller, and throws a Problem: 401, 403, 429 after too many failures of a
 *   client, 503 when Redis is away
 */
export function createAuthenticate(
  keyring: Keyring,
  failures: FailedAuthentications,
  usage: UsageCounter,
  clock: RedisClock,
) {
  return async function authenticate(
    request: IncomingMessage & { ip?: string | undefined },
    access: Exclude<Route['access'], 'open' | 'admin'>,
  ): Promise<Caller> {
    const key = keyOf(request.headersDistinct);
    // Read before the first await: a closed connection has no address any more.
    const address = request.ip;
    const nowMs = clock.now();
    if (clock.away || nowMs === undefined) throw new Problem('unavailable');
    const record = key.length > MAX_KEY_CHARS ? undefined : await fromRedis(keyring.find(key, nowMs));
    if (record === undefined || !isLive(record, nowMs)) {
      if (record) usage.refused(record.id);
      await failures.record(address);
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
 * Creates the check of the admin token, which compares in constant time.
 * @returns a function that throws a Problem: 401, or 429 after too many failures of a client
 */
export function createAuthenticateAdmin(token: string, failures: FailedAuthentications) {
  const expected = sha256(token);
  return async function authenticateAdmin(
    request: IncomingMessage & { ip?: string | undefined },
  ): Promise<undefined> {
    const headers = { 'WWW-Authenticate': 'Bearer realm="sluice-admin"' };
    const [given, ...others] = bearerTokens(request.headersDistinct);
    if (given === undefined) throw new Problem('not_authenticated', { headers });
    if (others.length > 0 || !timingSafeEqual(sha256(utf8(given)), expected)) {
      await failures.record(request.ip);
      throw new Problem('invalid_admin_token', { headers });
    }
  };
}
