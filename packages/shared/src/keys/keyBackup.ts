import {
  keyIdSchema,
  keyNameSchema,
  limitsSchema,
  MAX_COUNT,
  scopeSchema,
  webhookUrlSchema,
} from '@sluice/contract';
import type { Redis } from 'ioredis';
import * as z from 'zod';
import { names } from '../redis/names.js';
import { type KeyRecord, type Keyring, type Limit, unitOf } from './keyring.js';

const hash = z.string().regex(/^[0-9a-f]{64}$/, 'not a SHA-256 in hexadecimal digits');
/** The latest time that a Date can have. */
const timeMs = z.int().min(0).max(8.64e15);

const savedKeySchema = z.strictObject({
  id: keyIdSchema,
  hash,
  /** Of the secret before the last rotation. */
  previous: z.strictObject({ hash, until_ms: timeMs }).optional(),
  name: keyNameSchema,
  scopes: z.array(scopeSchema),
  limits: limitsSchema,
  bulk_limit: z.int().min(0).max(MAX_COUNT),
  created_at_ms: timeMs,
  expires_at_ms: timeMs.optional(),
  revoked_at_ms: timeMs.optional(),
  webhook_url: webhookUrlSchema.optional(),
});
type SavedKey = z.infer<typeof savedKeySchema>;

/**
 * All keys with the hashes of their secrets, without the secrets that sign webhooks. It restores the keys, but contains no secret that a
 * caller could send.
 */
export const keyBackupSchema = z.strictObject({
  format: z.literal('sluice-keys'),
  version: z.literal(1),
  keys: z.array(savedKeySchema).superRefine((keys, context) => {
    const seen = new Set<string>();
    for (const [i, { id }] of keys.entries()) {
      if (seen.has(id)) context.addIssue({ code: 'custom', path: [i, 'id'], message: 'the id occurs twice' });
      seen.add(id);
    }
  }),
});
export type KeyBackup = z.infer<typeof keyBackupSchema>;

function saved(record: KeyRecord): SavedKey {
  const { previousHash, previousUntilMs } = record;
  return {
    id: record.id,
    hash: record.hash,
    ...(previousHash !== undefined && previousUntilMs !== undefined
      ? { previous: { hash: previousHash, until_ms: previousUntilMs } }
      : {}),
    name: record.name,
    scopes: record.scopes,
    limits: record.limits.map(({ limit, windowSeconds, ...rest }) => ({
      limit,
      window_seconds: windowSeconds,
      unit: unitOf(rest),
    })),
    bulk_limit: record.bulkLimit,
    created_at_ms: record.createdAtMs,
    ...(record.expiresAtMs === undefined ? {} : { expires_at_ms: record.expiresAtMs }),
    ...(record.revokedAtMs === undefined ? {} : { revoked_at_ms: record.revokedAtMs }),
    ...(record.webhookUrl === undefined ? {} : { webhook_url: record.webhookUrl }),
  };
}

/**
 * Saves all keys.
 * @returns the backup; ids of keys with a signing secret, which is not in the backup; ids of keys that were skipped, because their
 *   record is malformed
 */
export async function exportKeys(
  keyring: Keyring,
): Promise<{ backup: KeyBackup; withSigningSecret: string[]; unreadable: string[] }> {
  const { records, unreadable } = await keyring.list();
  return {
    backup: { format: 'sluice-keys', version: 1, keys: records.map(saved) },
    withSigningSecret: records.filter((record) => record.webhookSecret !== undefined).map(({ id }) => id),
    unreadable,
  };
}

/** Number of keys that are restored at the same time, because each takes three round trips to Redis. */
const IMPORTED_TOGETHER = 100;

/**
 * Restores keys. A key that exists stays as it is, because it may have been revoked or rotated since. So an import can be repeated.
 * @param onImported called after each restored key; calls may overlap
 * @returns the ids of the restored keys, of those that exist with the same values, and of those that exist with other values
 */
export async function importKeys(
  redis: Redis,
  keyring: Keyring,
  { keys }: KeyBackup,
  onImported: (keyId: string) => Promise<void>,
): Promise<{ imported: string[]; unchanged: string[]; different: string[] }> {
  const ids: Record<'imported' | 'unchanged' | 'different', string[]> = {
    imported: [],
    unchanged: [],
    different: [],
  };
  const importKey = async (key: SavedKey) => {
    const isNew = await restore(redis, key);
    if (isNew) await onImported(key.id);
    // A malformed record counts as one with other values.
    const after = await keyring.read(key.id).catch((error: unknown) => {
      if (error instanceof z.ZodError) return undefined;
      throw error;
    });
    const isSame = after !== undefined && JSON.stringify(saved(after)) === JSON.stringify(key);
    ids[!isSame ? 'different' : isNew ? 'imported' : 'unchanged'].push(key.id);
  };
  for (let i = 0; i < keys.length; i += IMPORTED_TOGETHER) {
    // After an error the others are still finished, so that each restored key is reported.
    const done = await Promise.allSettled(keys.slice(i, i + IMPORTED_TOGETHER).map(importKey));
    for (const each of done) if (each.status === 'rejected') throw each.reason;
  }
  return ids;
}

/** KEYS: the record and the list of keys. ARGV: the id, the time of its creation in milliseconds, and the fields and values. */
const RESTORE = `
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('ZADD', KEYS[2], 'NX', ARGV[2], ARGV[1])
return 1`;

/** Writes the record of a key, unless the key exists. Resolves to whether it wrote it. */
async function restore(redis: Redis, { id, previous, scopes, limits, ...rest }: SavedKey): Promise<boolean> {
  const fields = {
    v: '1',
    id,
    ...(previous ? { previous_hash: previous.hash, previous_until_ms: previous.until_ms } : {}),
    scopes: JSON.stringify(scopes),
    limits: JSON.stringify(
      limits.map(
        ({ limit, window_seconds, unit }): Limit => ({ limit, windowSeconds: window_seconds, unit }),
      ),
    ),
    ...rest,
  };
  const pairs = Object.entries(fields).flatMap(([field, value]) => [field, String(value)]);
  return (await redis.eval(RESTORE, 2, names.key(id), names.keys, id, rest.created_at_ms, ...pairs)) === 1;
}
