import { limitUnitSchema, scopeSchema } from '@sluice/contract';
import type { Redis } from 'ioredis';
import { z } from 'zod';
import { names } from '../redis/names.js';
import type { KeyRecord, Keyring } from './keyring.js';

const hash = z.string().regex(/^[0-9a-f]{64}$/, 'not a SHA-256 in hexadecimal digits');
const timeMs = z.int().min(0);

const savedKeySchema = z.strictObject({
  id: z.string().regex(/^[0-9a-f]{12}$/, 'not the id of a key'),
  hash,
  /** Of the secret before the last rotation. */
  previous: z.strictObject({ hash, until_ms: timeMs }).optional(),
  name: z.string(),
  scopes: z.array(scopeSchema),
  limits: z.array(
    z.strictObject({
      limit: z.int().min(1),
      windowSeconds: z.int().min(1),
      unit: limitUnitSchema.optional(),
    }),
  ),
  bulk_limit: z.int().min(0),
  created_at_ms: timeMs,
  expires_at_ms: timeMs.optional(),
  revoked_at_ms: timeMs.optional(),
  webhook_url: z.string().optional(),
});
type SavedKey = z.infer<typeof savedKeySchema>;

/**
 * All keys with the hashes of their secrets, without the secrets that sign webhooks. It restores the keys, but contains no secret that a
 * caller could send.
 */
export const keyBackupSchema = z.strictObject({
  format: z.literal('sluice-keys'),
  version: z.literal(1),
  keys: z.array(savedKeySchema),
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
    limits: record.limits,
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

/**
 * Restores keys. A key that exists stays as it is, because it may have been revoked or rotated since. So an import can be repeated.
 * @returns the ids of the restored keys, of those that exist with the same values, and of those that exist with other values
 */
export async function importKeys(
  redis: Redis,
  keyring: Keyring,
  { keys }: KeyBackup,
): Promise<{ imported: string[]; unchanged: string[]; different: string[] }> {
  const ids: Record<'imported' | 'unchanged' | 'different', string[]> = {
    imported: [],
    unchanged: [],
    different: [],
  };
  for (const key of keys) {
    const before = await keyring.read(key.id);
    if (before === undefined) await restore(redis, key);
    const after = await keyring.read(key.id);
    const isSame = after !== undefined && JSON.stringify(saved(after)) === JSON.stringify(key);
    ids[!isSame ? 'different' : before ? 'unchanged' : 'imported'].push(key.id);
  }
  return ids;
}

/** Writes the record of a key that does not exist. Fields that another process has written in the meantime stay. */
async function restore(redis: Redis, { id, previous, scopes, limits, ...rest }: SavedKey): Promise<void> {
  const fields = {
    v: '1',
    id,
    ...(previous ? { previous_hash: previous.hash, previous_until_ms: previous.until_ms } : {}),
    scopes: JSON.stringify(scopes),
    limits: JSON.stringify(limits),
    ...rest,
  };
  const transaction = redis.multi();
  for (const [field, value] of Object.entries(fields))
    transaction.hsetnx(names.key(id), field, String(value));
  await transaction.zadd(names.keys, 'NX', rest.created_at_ms, id).exec();
}
