import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { type KeyBody, type LimitUnit, limitUnitSchema, type Scope, scopeSchema } from '@sluice/contract';
import type { Redis, Result } from 'ioredis';
import * as z from 'zod';
import { json } from '../json.js';
import { ALLOW_WHEN_FULL, isStorageFull } from '../redis/errors.js';
import { names } from '../redis/names.js';

// The scripts stay in src/: two folders up from src/keys and from dist/keys alike.
const read = (file: string) => readFileSync(new URL(`../../src/keys/${file}`, import.meta.url), 'utf8');

declare module 'ioredis' {
  interface RedisCommander<Context> {
    rotateKey(keyCount: number, ...keysAndArgs: string[]): Result<unknown, Context>;
    updateKey(keyCount: number, ...keysAndArgs: string[]): Result<unknown, Context>;
    revokeKeyWhenFull(keyCount: number, ...keysAndArgs: string[]): Result<number, Context>;
  }
}

/** Bytes of a generated secret: 192 bits cannot be guessed, so a plain hash is safe to store. */
const SECRET_BYTES = 24;
const ID_BYTES = 6;
const GENERATED_KEY = /^sk_([0-9a-f]{12})_[A-Za-z0-9_-]{32}$/;
/** Maximum number of parsed records in memory. */
const MAX_PARSED = 10_000;
/** How many items of a key may wait in unfinished jobs by default. */
export const DEFAULT_BULK_LIMIT = 100_000;

/** At most `limit` requests, texts or tokens in any `windowSeconds`. */
export const limitSchema = z.object({
  limit: z.int().min(1),
  windowSeconds: z.int().min(1),
  /** `requests` if not given. */
  unit: limitUnitSchema.exactOptional(),
});
export type Limit = z.infer<typeof limitSchema>;

/** What a limit counts. */
export const unitOf = ({ unit = 'requests' }: Pick<Limit, 'unit'>): LimitUnit => unit;

/** Options of a new key. */
export interface KeyOptions {
  /** For people; need not be unique. */
  name: string;
  scopes?: readonly Scope[];
  /** The key's own limits; without them the configured default applies. */
  limits?: readonly Limit[];
  /** How many items may wait in unfinished jobs. */
  bulkLimit?: number;
  /** Milliseconds since the epoch, on Redis's clock. */
  expiresAtMs?: number | undefined;
  /** URL that is notified when an OpenAI batch ends. */
  webhookUrl?: string | undefined;
}

/** Changes to a key; fields that are not given stay as they are. */
export interface KeyChanges {
  name?: string;
  scopes?: readonly Scope[];
  /** Empty: the configured default. */
  limits?: readonly Limit[];
  bulkLimit?: number;
  /** null: never. */
  expiresAtMs?: number | null;
  /** null: none. */
  webhookUrl?: string | null;
}

const hash = z.string().regex(/^[0-9a-f]{64}$/);

/** The record as stored in its HASH. */
const storedSchema = z
  .object({
    v: z.literal('1'),
    id: z.string(),
    hash,
    previous_hash: hash.optional(),
    previous_until_ms: z.coerce.number().optional(),
    name: z.string(),
    scopes: json(z.array(scopeSchema)),
    limits: json(z.array(limitSchema)),
    bulk_limit: z.coerce.number().int().min(0),
    bulk_queued: z.coerce.number().int().min(0).default(0),
    created_at_ms: z.coerce.number(),
    expires_at_ms: z.coerce.number().optional(),
    revoked_at_ms: z.coerce.number().optional(),
    last_used_at_ms: z.coerce.number().optional(),
    webhook_url: z.string().optional(),
    webhook_secret: z.string().optional(),
  })
  .transform((stored) => ({
    id: stored.id,
    hash: stored.hash,
    /** Hash of the secret before the last rotation, which is valid until `previousUntilMs`. */
    previousHash: stored.previous_hash,
    previousUntilMs: stored.previous_until_ms,
    name: stored.name,
    scopes: stored.scopes,
    /** Empty: the configured default. */
    limits: stored.limits,
    bulkLimit: stored.bulk_limit,
    bulkQueued: stored.bulk_queued,
    createdAtMs: stored.created_at_ms,
    expiresAtMs: stored.expires_at_ms,
    revokedAtMs: stored.revoked_at_ms,
    /** Precise to a minute. */
    lastUsedAtMs: stored.last_used_at_ms,
    /** URL that is notified when an OpenAI batch ends. */
    webhookUrl: stored.webhook_url,
    /** What webhooks are signed with. Unlike the key it is stored in plain text, since signing needs it. */
    webhookSecret: stored.webhook_secret,
  }));

/** The record of an API key: everything but its secret. */
export type KeyRecord = z.infer<typeof storedSchema>;

const sha256 = (text: string) => createHash('sha256').update(text).digest();

/** The public id of a key: part of a generated key, and the first 12 hex digits of the SHA-256 of any other. */
export function keyIdOf(key: string): string {
  return GENERATED_KEY.exec(key)?.[1] ?? sha256(key).toString('hex').slice(0, 12);
}

/**
 * A new random key, `sk_<id>_<secret>`.
 * @param id of an existing key that gets a new secret
 */
export function makeKey(id = randomBytes(ID_BYTES).toString('hex')): string {
  return `sk_${id}_${randomBytes(SECRET_BYTES).toString('base64url')}`;
}

/** Whether a key is neither revoked nor expired. */
export function isLive(record: KeyRecord, nowMs: number): boolean {
  return record.revokedAtMs === undefined && (record.expiresAtMs === undefined || record.expiresAtMs > nowMs);
}

/** A record as operators see it, without hashes. */
export function keyBody(record: KeyRecord, nowMs: number): KeyBody {
  const time = (ms: number | undefined) => (ms === undefined ? null : new Date(ms).toISOString());
  const { previousUntilMs } = record;
  return {
    key_id: record.id,
    name: record.name,
    status: record.revokedAtMs !== undefined ? 'revoked' : isLive(record, nowMs) ? 'live' : 'expired',
    scopes: record.scopes,
    limits: record.limits.map((limit) => ({
      limit: limit.limit,
      window_seconds: limit.windowSeconds,
      unit: unitOf(limit),
    })),
    bulk_limit: record.bulkLimit,
    webhook_url: record.webhookUrl ?? null,
    created_at: new Date(record.createdAtMs).toISOString(),
    expires_at: time(record.expiresAtMs),
    revoked_at: time(record.revokedAtMs),
    last_used_at: time(record.lastUsedAtMs),
    previous_secret_until: time(
      previousUntilMs !== undefined && previousUntilMs > nowMs ? previousUntilMs : undefined,
    ),
  };
}

/** The id of a key belongs to another secret: the key was rotated. */
export class KeyTaken extends Error {
  override name = 'KeyTaken';
}

/** The change needs a key that is neither revoked nor expired. */
export class KeyNotLive extends Error {
  override name = 'KeyNotLive';
}

/** API keys in Redis. Only hashes are stored. Each use reads the record from Redis, so a revocation takes effect at once. */
export class Keyring {
  #redis: Redis;
  /** Parsed records by key id. A parsed record is used again only if Redis returns the same fields. */
  #parsed = new Map<string, { fields: string; record: KeyRecord }>();

  constructor(redis: Redis) {
    this.#redis = redis;
    redis.defineCommand('rotateKey', { lua: read('rotate.lua') });
    redis.defineCommand('revokeKeyWhenFull', {
      lua: `${ALLOW_WHEN_FULL}\nreturn redis.call('HSETNX', KEYS[1], 'revoked_at_ms', ARGV[1])`,
    });
    redis.defineCommand('updateKey', { lua: read('update.lua') });
  }

  /**
   * Reads the record of a key, live or not. Returns undefined for an unknown key. Hashes are compared in constant time, so
   * that the duration reveals nothing about the stored hash.
   * @param key as the caller sent it
   * @param nowMs Redis's time
   * @throws what the Redis connection throws
   */
  async find(key: string, nowMs: number): Promise<KeyRecord | undefined> {
    const record = await this.read(keyIdOf(key));
    if (record === undefined) return undefined;
    const presented = sha256(key);
    const isCurrent = timingSafeEqual(presented, Buffer.from(record.hash, 'hex'));
    const isPrevious = timingSafeEqual(presented, Buffer.from(record.previousHash ?? record.hash, 'hex'));
    return isCurrent || (isPrevious && nowMs < (record.previousUntilMs ?? 0)) ? record : undefined;
  }

  /** The record with an id, live or not. */
  async read(keyId: string): Promise<KeyRecord | undefined> {
    const stored = await this.#redis.hgetall(names.key(keyId));
    return Object.keys(stored).length === 0 ? undefined : this.#parse(keyId, stored);
  }

  /** Parses a record, or returns the parsed one if its fields have not changed. @throws ZodError */
  #parse(keyId: string, stored: Record<string, string>): KeyRecord {
    const fields = JSON.stringify(stored);
    const known = this.#parsed.get(keyId);
    if (known?.fields === fields) return known.record;
    const record = storedSchema.parse(stored);
    // The first key of a map is the oldest.
    if (this.#parsed.size >= MAX_PARSED) this.#parsed.delete(this.#parsed.keys().next().value ?? '');
    this.#parsed.set(keyId, { fields, record });
    return record;
  }

  /**
   * Registers a key. A key that is already registered stays as it is, so this can be repeated.
   * @param key generated by {@link makeKey}, or any text that an operator supplies
   * @param nowMs Redis's time
   * @returns the stored record
   * @throws KeyTaken when its id belongs to another secret
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
      ...(options.webhookUrl === undefined ? {} : { webhook_url: options.webhookUrl }),
    };
    if ((await this.#redis.exists(names.key(id))) === 0) {
      const transaction = this.#redis.multi();
      for (const [field, value] of Object.entries(fields)) transaction.hsetnx(names.key(id), field, value);
      await transaction.zadd(names.keys, 'NX', Math.round(nowMs), id).exec();
    }
    const record = await this.find(key, nowMs);
    if (record === undefined) throw new KeyTaken(`The id ${id} belongs to another secret`);
    return record;
  }

  /**
   * Records, live or not, oldest first; without arguments all of them.
   * @param offset how many to skip
   * @param count the maximum to return
   * @returns the records, the ids of malformed records (which do not hide the others), and whether more follow
   */
  async list(
    offset = 0,
    count = Number.POSITIVE_INFINITY,
  ): Promise<{ records: KeyRecord[]; unreadable: string[]; more: boolean }> {
    const last = Number.isFinite(count) ? String(offset + count) : '-1';
    const ids = await this.#redis.zrange(names.keys, String(offset), last);
    const stored = await Promise.all(ids.slice(0, count).map((id) => this.#redis.hgetall(names.key(id))));
    const parsed = stored.map((record) => storedSchema.safeParse(record));
    return {
      records: parsed.flatMap(({ data }) => data ?? []),
      unreadable: ids.filter((_, i) => parsed[i]?.success === false),
      more: ids.length > count,
    };
  }

  /**
   * Revokes a key, at once and permanently, also when Redis is full (with Redis 7 or later). The record stays, so that the key cannot be registered again.
   * @returns the record, and whether this call revoked the key; undefined when the id is unknown
   */
  async revoke(keyId: string, nowMs: number): Promise<{ record: KeyRecord; revoked: boolean } | undefined> {
    if ((await this.read(keyId)) === undefined) return undefined;
    const now = String(Math.round(nowMs));
    const set = await this.#redis.hsetnx(names.key(keyId), 'revoked_at_ms', now).catch((error: unknown) => {
      if (!isStorageFull(error)) throw error;
      // The key may be the one that fills Redis.
      return this.#redis.revokeKeyWhenFull(1, names.key(keyId), now).catch(() => {
        throw error;
      });
    });
    const record = await this.read(keyId);
    return record && { record, revoked: set === 1 };
  }

  /**
   * Gives a key a new secret. Its id stays, and with it its windows and jobs.
   * @param graceMs how long the current secret stays valid in addition to the new one; older secrets end at once
   * @param nowMs Redis's time
   * @returns the key and its record, or undefined when the id is unknown
   * @throws KeyNotLive for a revoked or expired key
   */
  async rotate(
    keyId: string,
    graceMs: number,
    nowMs: number,
  ): Promise<{ key: string; record: KeyRecord } | undefined> {
    const before = await this.read(keyId);
    if (before === undefined) return undefined;
    const key = makeKey(keyId);
    const until = graceMs > 0 ? String(Math.round(nowMs + graceMs)) : '';
    if (
      !isLive(before, nowMs) ||
      (await this.#redis.rotateKey(1, names.key(keyId), sha256(key).toString('hex'), until)) !== 1
    ) {
      throw new KeyNotLive(`The key ${keyId} is revoked or expired; create another one`);
    }
    const record = await this.read(keyId);
    return record && { key, record };
  }

  /**
   * Returns the secret that signs the webhooks of a key (https://www.standardwebhooks.com), and creates one if the key has none.
   * @param renew replaces it
   * @returns undefined when the id is unknown
   * @throws KeyNotLive for a revoked key
   */
  async webhookSecret(keyId: string, renew: boolean): Promise<string | undefined> {
    const record = await this.read(keyId);
    if (record === undefined) return undefined;
    if (record.webhookSecret !== undefined && !renew) return record.webhookSecret;
    const secret = `whsec_${randomBytes(SECRET_BYTES).toString('base64')}`;
    if ((await this.#redis.updateKey(1, names.key(keyId), 'webhook_secret', secret)) === 0)
      throw new KeyNotLive(`The key ${keyId} is revoked; create another one`);
    return secret;
  }

  /**
   * Changes the given fields; the next request sees them.
   * @returns the record, or undefined when the id is unknown
   * @throws KeyNotLive for a revoked key; an expired key may get a later expiry
   */
  async update(keyId: string, changes: KeyChanges): Promise<KeyRecord | undefined> {
    const { name, scopes, limits, bulkLimit, expiresAtMs, webhookUrl } = changes;
    const fields = {
      ...(name === undefined ? {} : { name }),
      ...(scopes === undefined ? {} : { scopes: JSON.stringify(scopes) }),
      ...(limits === undefined ? {} : { limits: JSON.stringify(limits) }),
      ...(bulkLimit === undefined ? {} : { bulk_limit: String(bulkLimit) }),
      ...(expiresAtMs === undefined
        ? {}
        : { expires_at_ms: expiresAtMs === null ? '' : String(Math.round(expiresAtMs)) }),
      ...(webhookUrl === undefined ? {} : { webhook_url: webhookUrl ?? '' }),
    };
    if ((await this.#redis.updateKey(1, names.key(keyId), ...Object.entries(fields).flat())) === 0) {
      throw new KeyNotLive(`The key ${keyId} is revoked; create another one`);
    }
    return this.read(keyId);
  }
}
