import { type AdminRoutes, cursorOf, offsetOf } from '@sluice/contract';
import {
  type KeyChanges,
  KeyNotLive,
  type Keyring,
  keyBody,
  type Limit,
  type Log,
  makeKey,
  type RedisClock,
  type Usage,
} from '@sluice/shared';
import { fromRedis, Problem } from '../errors/problem.js';
import type { HandlersOf } from './handlers.js';

interface Services {
  keyring: Keyring;
  usage: Usage;
  clock: RedisClock;
  log: Log;
}

/** Handlers of the operator's routes about keys: the same core as `sluice keys`. */
export function keyRoutes({
  keyring,
  usage,
  clock,
  log,
}: Services): Pick<
  HandlersOf<AdminRoutes>,
  'createKey' | 'keys' | 'key' | 'updateKey' | 'revokeKey' | 'rotateKey' | 'keyUsage'
> {
  function now(): number {
    const nowMs = clock.now();
    if (clock.away || nowMs === undefined) throw new Problem('unavailable');
    return nowMs;
  }

  return {
    async createKey({ body, response }) {
      const nowMs = now();
      const key = makeKey();
      const { expiresAtMs, ...rest } = changesOf(body);
      const record = await fromRedis(
        keyring.register(key, { name: body.name, ...rest, expiresAtMs: expiresAtMs ?? undefined }, nowMs),
      );
      log.info({ key_id: record.id }, 'A key was made');
      response.set({ Location: `/admin/keys/${record.id}`, 'Cache-Control': 'no-store' });
      return { key, ...keyBody(record, nowMs) };
    },

    async keys({ query: { limit, cursor } }) {
      const nowMs = now();
      const offset = offsetOf(cursor);
      const { records, unreadable, more } = await fromRedis(keyring.list(offset, limit));
      if (unreadable.length > 0) log.warn({ key_ids: unreadable }, 'Records of keys cannot be read');
      return {
        keys: records.map((record) => keyBody(record, nowMs)),
        next_cursor: more ? cursorOf(offset + limit) : null,
      };
    },

    async key({ params }) {
      const nowMs = now();
      return keyBody(known(await fromRedis(keyring.read(params.id))), nowMs);
    },

    async updateKey({ params, body }) {
      const nowMs = now();
      const record = known(await changing(keyring.update(params.id, changesOf(body))));
      log.info({ key_id: record.id, changed: Object.keys(body) }, 'A key was changed');
      return keyBody(record, nowMs);
    },

    async revokeKey({ params }) {
      const nowMs = now();
      const record = known(await fromRedis(keyring.revoke(params.id, nowMs)));
      log.info({ key_id: record.id }, 'A key was revoked');
      return keyBody(record, nowMs);
    },

    async rotateKey({ params, body, response }) {
      const nowMs = now();
      const { key, record } = known(
        await changing(keyring.rotate(params.id, body.grace_seconds * 1000, nowMs)),
      );
      log.info({ key_id: record.id, grace_seconds: body.grace_seconds }, 'A key was rotated');
      response.set('Cache-Control', 'no-store');
      return { key, ...keyBody(record, nowMs) };
    },

    async keyUsage({ params }) {
      const { id } = known(await fromRedis(keyring.read(params.id)));
      return { key_id: id, days: await fromRedis(usage.read(id)) };
    },
  };
}

/** What a body names, as the keyring knows it. */
function changesOf(body: {
  name?: string | undefined;
  scopes?: KeyChanges['scopes'] | undefined;
  limits?: { limit: number; window_seconds: number }[] | undefined;
  bulk_limit?: number | undefined;
  expires_at?: string | null | undefined;
}): KeyChanges {
  const { name, scopes, limits, bulk_limit: bulkLimit, expires_at: expires } = body;
  return {
    ...(name === undefined ? {} : { name }),
    ...(scopes === undefined ? {} : { scopes }),
    ...(limits === undefined
      ? {}
      : {
          limits: limits.map(
            ({ limit, window_seconds }): Limit => ({ limit, windowSeconds: window_seconds }),
          ),
        }),
    ...(bulkLimit === undefined ? {} : { bulkLimit }),
    ...(expires === undefined ? {} : { expiresAtMs: expires === null ? null : Date.parse(expires) }),
  };
}

function known<T>(found: T | undefined): T {
  if (found === undefined) throw new Problem('not_found');
  return found;
}

/** A change that a revoked or expired key refuses. */
async function changing<T>(change: Promise<T>): Promise<T> {
  try {
    return await change;
  } catch (cause) {
    throw cause instanceof KeyNotLive
      ? new Problem('key_not_live', { detail: cause.message, cause })
      : new Problem('unavailable', { cause });
  }
}
