import { type AdminRoutes, cursorOf, type LimitUnit, offsetOf } from '@sluice/contract';
import {
  type KeyChanges,
  type KeyEvent,
  KeyNotLive,
  type Keyring,
  keyBody,
  type Limit,
  type Log,
  makeKey,
  type RedisClock,
  type Usage,
} from '@sluice/shared';
import type { Request } from 'express';
import { plainAddress } from '../http/address.js';
import type { HandlersOf } from '../http/family.js';
import { fromRedis, Problem } from '../http/problem.js';

interface Services {
  keyring: Keyring;
  usage: Usage;
  clock: RedisClock;
  log: Log;
}

/** Handlers of the admin routes about keys. They use the same keyring as `sluice keys`. */
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

  function logChange(what: KeyEvent, keyId: string, { ip }: Request, fields: object = {}): void {
    log.info({ key_id: keyId, by: 'admin token', address: plainAddress(ip), ...fields }, what);
  }

  return {
    async createKey({ body, request, response }) {
      const nowMs = now();
      const key = makeKey();
      const { expiresAtMs, webhookUrl, ...rest } = changesOf(body);
      const record = await fromRedis(
        keyring.register(
          key,
          {
            name: body.name,
            ...rest,
            expiresAtMs: expiresAtMs ?? undefined,
            webhookUrl: webhookUrl ?? undefined,
          },
          nowMs,
        ),
      );
      logChange('Key created', record.id, request);
      response.set({ Location: `/admin/keys/${record.id}`, 'Cache-Control': 'no-store' });
      return { key, ...keyBody(record, nowMs) };
    },

    async keys({ query: { limit, cursor } }) {
      const nowMs = now();
      const offset = offsetOf(cursor);
      const { records, unreadable, more } = await fromRedis(keyring.list(offset, limit));
      if (unreadable.length > 0) log.warn({ key_ids: unreadable }, 'Malformed key records skipped');
      return {
        keys: records.map((record) => keyBody(record, nowMs)),
        next_cursor: more ? cursorOf(offset + limit) : null,
      };
    },

    async key({ params }) {
      const nowMs = now();
      return keyBody(found(await fromRedis(keyring.read(params.id))), nowMs);
    },

    async updateKey({ params, body, request }) {
      const nowMs = now();
      const record = found(await fromKeyring(keyring.update(params.id, changesOf(body))));
      logChange('Key changed', record.id, request, { changed: Object.keys(body) });
      return keyBody(record, nowMs);
    },

    async revokeKey({ params, request }) {
      const nowMs = now();
      const { record, revoked } = found(await fromRedis(keyring.revoke(params.id, nowMs)));
      if (revoked) logChange('Key revoked', record.id, request);
      return keyBody(record, nowMs);
    },

    async rotateKey({ params, body, request, response }) {
      const nowMs = now();
      const { key, record } = found(
        await fromKeyring(keyring.rotate(params.id, body.grace_seconds * 1000, nowMs)),
      );
      logChange('Key rotated', record.id, request, { grace_seconds: body.grace_seconds });
      response.set('Cache-Control', 'no-store');
      return { key, ...keyBody(record, nowMs) };
    },

    async keyUsage({ params }) {
      const { id } = found(await fromRedis(keyring.read(params.id)));
      return { key_id: id, days: await fromRedis(usage.read(id)) };
    },
  };
}

/** The changes in a body, as the keyring takes them. */
function changesOf(body: {
  name?: string | undefined;
  scopes?: KeyChanges['scopes'] | undefined;
  limits?: { limit: number; window_seconds: number; unit: LimitUnit }[] | undefined;
  bulk_limit?: number | undefined;
  expires_at?: string | null | undefined;
  webhook_url?: string | null | undefined;
}): KeyChanges {
  const { name, scopes, limits, bulk_limit: bulkLimit, expires_at: expires, webhook_url: webhookUrl } = body;
  return {
    ...(name === undefined ? {} : { name }),
    ...(scopes === undefined ? {} : { scopes }),
    ...(limits === undefined
      ? {}
      : {
          limits: limits.map(
            ({ limit, window_seconds, unit }): Limit => ({ limit, windowSeconds: window_seconds, unit }),
          ),
        }),
    ...(bulkLimit === undefined ? {} : { bulkLimit }),
    ...(webhookUrl === undefined ? {} : { webhookUrl }),
    ...(expires === undefined ? {} : { expiresAtMs: expires === null ? null : Date.parse(expires) }),
  };
}

/** @throws Problem `not_found` for undefined */
function found<T>(value: T | undefined): T {
  if (value === undefined) throw new Problem('not_found');
  return value;
}

/** Awaits a change of a key. @throws Problem `key_not_live`, `storage_full` or `unavailable` */
async function fromKeyring<T>(change: Promise<T>): Promise<T> {
  return fromRedis(
    change.catch((cause: unknown) => {
      if (cause instanceof KeyNotLive) throw new Problem('key_not_live', { detail: cause.message, cause });
      throw cause;
    }),
  );
}
