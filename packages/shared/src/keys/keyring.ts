import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { type Scope, scopeSchema } from '@sluice/contract';
import type { Redis } from 'ioredis';
import { z } from 'zod';
import { json } from '../json.js';
import { names } from '../redis/names.js';

/** Bytes of a made key's secret: 192 bits, which no one guesses, so a plain hash of it is safe to store. */
const SECRET_BYTES = 24;
const ID_BYTES = 6;
const MADE_KEY = /^sk_([0-9a-f]{12})_[A-Za-z0-9_-]{32}$/;
/** How many texts of a key may wait in unfinished batches, unless it is told otherwise. */
export const DEFAULT_BULK_LIMIT = 100_000;

/** At most `limit` requests in any `windowSeconds`. */
export const limitSchema = z.object({ limit: z.int().min(1), windowSeconds: z.int().min(1) });
export type Limit = z.infer<typeof limitSchema>;

/** What a key is made with. */
export interface KeyOptions {
  /** For people; need not be unique. */
  name: string;
  scopes?: readonly Scope[];
  /** Own limits; without them those of the configuration hold. */
  limits?: readonly Limit[];
  /** How many texts may wait in unfinished batches. */
  bulkLimit?: number;
  /** Milliseconds since the epoch, on Redis's clock. */
  expiresAtMs?: number | undefined;
}

/** The record as the HASH in Redis holds it. */
const storedSchema = z
  .object({
    v: z.literal('1'),
    id: z.string(),
    hash: z.string().regex(/^[0-9a-f]{64}$/),
    name: z.string(),
    scopes: json(z.array(scopeSchema)),
    limits: json(z.array(limitSchema)),
    bulk_limit: z.coerce.number().int().min(0),
    bulk_queued: z.coerce.number().int().min(0).default(0),
    created_at_ms: z.coerce.number(),
    expires_at_ms: z.coerce.number().optional(),
    revoked_at_ms: z.coerce.number().optional(),
  })
  .transform((stored) => ({
    id: stored.id,
    hash: stored.hash,
    name: stored.name,
    scopes: stored.scopes,
    /** Empty: those of the configuration. */
    limits: stored.limits,
    bulkLimit: stored.bulk_limit,
    bulkQueued: stored.bulk_queued,
    createdAtMs: stored.created_at_ms,
    expiresAtMs: stored.expires_at_ms,
    revokedAtMs: stored.revoked_at_ms,
  }));

/** The record of an API key: everything about it but the key. */
export type KeyRecord = z.infer<typeof storedSchema>;

const sha256 = (text: string) => createHash('sha256').update(text).digest();

/** The public id in a key that was made here, else the first 12 hex digits of the SHA-256. */
export function keyIdOf(key: string): string {
  return MADE_KEY.exec(key)?.[1] ?? sha256(key).toString('hex').slice(0, 12);
}

/** A new random key, `sk_<id>_<secret>`. */
export function makeKey(): string {
  return `sk_${randomBytes(ID_BYTES).toString('hex')}_${randomBytes(SECRET_BYTES).toString('base64url')}`;
}

/** Whether a record may be used now. */
export function isLive(record: KeyRecord, nowMs: number): boolean {
  return record.revokedAtMs === undefined && (record.expiresAtMs === undefined || record.expiresAtMs > nowMs);
}

/** API keys in Redis. Only their hashes stand there, and nothing is cached: a revocation works at once. */
export class Keyring {
  #redis: Redis;

  constructor(redis: Redis) {
    this.#redis = redis;
  }

  /**
   * The record of a key, live or not; undefined when there is none. The hashes are compared in constant time.
   * @param key as the caller presents it
   * @throws what the Redis connection throws
   */
  async find(key: string): Promise<KeyRecord | undefined> {
    const record = await this.read(keyIdOf(key));
    if (record === undefined) return undefined;
    return timingSafeEqual(sha256(key), Buffer.from(record.hash, 'hex')) ? record : undefined;
  }

  /** The record with an id, live or not. */
  async read(keyId: string): Promise<KeyRecord | undefined> {
    const stored = await this.#redis.hgetall(names.key(keyId));
    return Object.keys(stored).length === 0 ? undefined : storedSchema.parse(stored);
  }

  /**
   * Registers a key. One that is registered already stays as it is, so this can be repeated.
   * @param key made by {@link makeKey}, or any text that an operator supplies
   * @param nowMs Redis's time
   * @returns the record as it stands now
   */
  async register(key: string, options: KeyOptions, nowMs: number): Promise<KeyRecord> {
    const id = keyIdOf(key);
    const fields = {
      v: '1',
      id,
      hash: sha256(key).toString('hex'),
      name: options.name,
      scopes: JSON.stringify(options.scopes ?? scopeSchema.options),
      limits: JSON.stringify(options.limits ?? []),
      bulk_limit: String(options.bulkLimit ?? DEFAULT_BULK_LIMIT),
      created_at_ms: String(Math.round(nowMs)),
      ...(options.expiresAtMs === undefined
        ? {}
        : { expires_at_ms: String(Math.round(options.expiresAtMs)) }),
    };
    if ((await this.#redis.exists(names.key(id))) === 0) {
      const transaction = this.#redis.multi();
      for (const [field, value] of Object.entries(fields)) transaction.hsetnx(names.key(id), field, value);
      await transaction.zadd(names.keys, 'NX', Math.round(nowMs), id).exec();
    }
    const record = await this.find(key);
    if (record === undefined) throw new Error(`Another key has the id ${id}`);
    return record;
  }

  /** Every record, live or not, oldest first. */
  async list(): Promise<KeyRecord[]> {
    const ids = await this.#redis.zrange(names.keys, '0', '-1');
    const records = await Promise.all(ids.map((id) => this.read(id)));
    return records.filter((record) => record !== undefined);
  }

  /**
   * Revokes a key, at once and for good; its record stays, so that no one registers it again.
   * @returns the record, or undefined when there is no such id
   */
  async revoke(keyId: string, nowMs: number): Promise<KeyRecord | undefined> {
    if ((await this.read(keyId)) === undefined) return undefined;
    await this.#redis.hsetnx(names.key(keyId), 'revoked_at_ms', String(Math.round(nowMs)));
    return this.read(keyId);
  }
}
