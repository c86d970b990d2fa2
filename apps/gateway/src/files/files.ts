import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { COMMAND_TIMEOUT_MS, type Log, names, type RedisClock } from '@sluice/shared';
import type { Redis, Result } from 'ioredis';
import * as z from 'zod';
import type { RedisMemory } from '../admission/redisMemory.js';
import { fromRedis, Problem } from '../http/problem.js';
import { ConcurrencyLimit } from '../limits/concurrencyLimit.js';

// The scripts stay in src/: two folders up from src/files and from dist/files alike.
const read = (file: string) => readFileSync(new URL(`../../src/files/${file}`, import.meta.url), 'utf8');

declare module 'ioredis' {
  interface RedisCommander<Context> {
    storeFile(keyCount: number, ...keysAndArgs: (string | number)[]): Result<unknown, Context>;
    eraseFile(keyCount: number, ...keysAndArgs: string[]): Result<unknown, Context>;
  }
}

/** A file is stored in pieces of at least this size, so that it is never in memory as a whole. */
const PIECE_BYTES = 128 * 1024;
/** What an upload has staged expires after this long without another piece, in milliseconds. */
const STAGE_TTL_MS = 60_000;
/** A smaller piece is stored after this long, in milliseconds, which renews the expiry of the others. */
const PIECE_MS = 10_000;
/** Uploads of a key at once, whose bytes are not counted yet. */
const MAX_UPLOADS = 2;
/** Files of a key; each has a cost besides its bytes. */
const MAX_FILES = 1_000;
const MAX_NAME_CHARS = 255;
/** It cannot be predicted when an upload ends. */
const RETRY_AFTER_SECONDS = '5';

const number = z.coerce.number();
const recordSchema = z
  .object({
    id: z.string(),
    key_id: z.string(),
    bytes: number,
    pieces: number,
    name: z.string(),
    purpose: z.string(),
    created_at_ms: number,
    expires_at_ms: number,
  })
  .transform((record) => ({
    id: record.id,
    keyId: record.key_id,
    bytes: record.bytes,
    pieces: record.pieces,
    name: record.name,
    purpose: record.purpose,
    createdAtMs: record.created_at_ms,
    expiresAtMs: record.expires_at_ms,
  }));

/** The record of a file. */
export type FileRecord = z.infer<typeof recordSchema>;

const storeReply = z.union([
  z.tuple([z.literal('stored'), z.number()]),
  z.tuple([z.literal('used up'), z.number()]),
  z.tuple([z.enum(['late', 'missing', 'revoked', 'too many'])]),
]);

interface FilesOptions {
  redis: Redis;
  clock: RedisClock;
  memory: RedisMemory;
  log: Log;
  /** How long a file is kept after its upload, or after the end of the last batch that used it, in milliseconds. */
  ttlMs: number;
  /** Maximum total size of the files of a key. */
  maxBytesPerKey: number;
}

/** Files of the callers in Redis. Each is stored as a whole or not at all. */
export class Files {
  #redis: Redis;
  #clock: RedisClock;
  #memory: RedisMemory;
  #log: Log;
  #uploads: ConcurrencyLimit;
  readonly maxBytesPerKey: number;
  readonly ttlMs: number;

  constructor({ redis, clock, memory, log, ttlMs, maxBytesPerKey }: FilesOptions) {
    this.#redis = redis;
    this.#clock = clock;
    this.#memory = memory;
    this.#log = log;
    this.#uploads = new ConcurrencyLimit(redis, MAX_UPLOADS, log);
    this.maxBytesPerKey = maxBytesPerKey;
    this.ttlMs = ttlMs;
    redis.defineCommand('storeFile', { lua: read('store.lua') });
    redis.defineCommand('eraseFile', { lua: read('erase.lua') });
  }

  /**
   * Stores a file as it arrives. What has arrived of an upload that breaks off expires.
   * @param content the bytes of the file
   * @param about called when all bytes have arrived: what is known then about the file
   * @throws Problem `file_too_large`, `file_allowance_used`, `too_many_uploads`, `nearly_full`, `storage_full`,
   *   `unavailable`, `invalid_api_key`, `validation_failed`; what `content` and `about` throw
   */
  async store(
    keyId: string,
    content: AsyncIterable<Buffer>,
    about: () => { name: string; purpose: string },
  ): Promise<FileRecord> {
    const id = `file-${randomUUID().replaceAll('-', '')}`;
    const stage = names.fileStage(id);
    const end = await fromRedis(this.#uploads.begin(names.uploads(keyId)));
    if (end === undefined)
      throw new Problem('too_many_uploads', { headers: { 'Retry-After': RETRY_AFTER_SECONDS } });
    try {
      const { bytes, pieces } = await this.#stage(keyId, stage, content);
      const { name, purpose } = about();
      const wrong =
        bytes === 0
          ? 'The file is empty'
          : name.length > MAX_NAME_CHARS
            ? `The name of the file is longer than ${MAX_NAME_CHARS} characters`
            : undefined;
      if (wrong) throw new Problem('validation_failed', { errors: [{ pointer: '/file', detail: wrong }] });
      return await this.#accept({ id, keyId, bytes, pieces, name, purpose }, stage);
    } catch (error) {
      // Nobody knows the id of the file, even if it was stored and only the confirmation was lost.
      Promise.all([this.#redis.unlink(stage), this.erase(keyId, id)]).catch((err: unknown) =>
        this.#log.debug({ err, file_id: id }, 'Could not remove an upload; it will expire'),
      );
      throw error;
    } finally {
      end();
    }
  }

  /** A file of a key. @throws Problem `not_found` or `unavailable` */
  async of(keyId: string, fileId: string): Promise<FileRecord> {
    const record = recordSchema.safeParse(await fromRedis(this.#redis.hgetall(names.file(fileId)))).data;
    if (record?.keyId !== keyId) throw noFile(fileId);
    return record;
  }

  /** The files of a key, oldest first. @throws Problem `unavailable` */
  async list(keyId: string): Promise<FileRecord[]> {
    const ids = await fromRedis(this.#redis.zrange(names.files(keyId), '0', '-1'));
    const records = await fromRedis(Promise.all(ids.map((id) => this.#redis.hgetall(names.file(id)))));
    return records.flatMap((record) => recordSchema.safeParse(record).data ?? []);
  }

  /** The bytes of a file, piece by piece. @throws Problem `not_found` if it is erased meanwhile; `unavailable` */
  async *content({ id, pieces }: FileRecord): AsyncGenerator<Buffer> {
    for (let i = 0; i < pieces; i++) {
      const piece = await fromRedis(this.#redis.hgetBuffer(names.filePieces(id), String(i)));
      if (piece === null) throw noFile(id);
      yield piece;
    }
  }

  /**
   * @param ifExpiredAtMs leaves a file as it is that expires later
   * @throws what the Redis connection throws
   */
  async erase(keyId: string, fileId: string, ifExpiredAtMs?: number): Promise<void> {
    const keys = [
      names.filePieces(fileId),
      names.file(fileId),
      names.key(keyId),
      names.files(keyId),
      names.expiringFiles,
    ];
    await this.#redis.eraseFile(keys.length, ...keys, fileId, keyId, String(ifExpiredAtMs ?? ''));
  }

  async #stage(keyId: string, stage: string, content: AsyncIterable<Buffer>) {
    const stored = Number((await fromRedis(this.#redis.hget(names.key(keyId), 'file_bytes'))) ?? 0);
    let bytes = 0;
    let pieces = 0;
    let piece: Buffer[] = [];
    let pieceBytes = 0;
    let sentMs = performance.now();
    const send = async () => {
      await this.#memory.check(0);
      const replies = await fromRedis(
        this.#redis
          .multi()
          .hset(stage, String(pieces), Buffer.concat(piece))
          .pexpire(stage, STAGE_TTL_MS)
          .exec(),
      );
      for (const [error] of replies ?? []) if (error) await fromRedis(Promise.reject(error));
      pieces++;
      piece = [];
      pieceBytes = 0;
      sentMs = performance.now();
    };
    for await (const part of content) {
      bytes += part.length;
      if (bytes > this.maxBytesPerKey)
        throw new Problem('file_too_large', {
          detail: `A file may have at most ${this.maxBytesPerKey} bytes`,
        });
      if (stored + bytes > this.maxBytesPerKey) throw this.#usedUp(stored);
      piece.push(part);
      pieceBytes += part.length;
      if (pieceBytes >= PIECE_BYTES || performance.now() - sentMs > PIECE_MS) await send();
    }
    if (pieceBytes > 0) await send();
    return { bytes, pieces };
  }

  async #accept(
    { id, keyId, bytes, pieces, name, purpose }: Omit<FileRecord, 'createdAtMs' | 'expiresAtMs'>,
    stage: string,
  ): Promise<FileRecord> {
    const nowMs = this.#clock.now();
    if (this.#clock.away || nowMs === undefined) throw new Problem('unavailable');
    const keys = [
      stage,
      names.filePieces(id),
      names.file(id),
      names.key(keyId),
      names.files(keyId),
      names.expiringFiles,
    ];
    const [kind, value = 0] = storeReply.parse(
      await fromRedis(
        this.#redis.storeFile(
          keys.length,
          ...keys,
          ...[id, keyId, bytes, pieces, name, purpose, this.ttlMs, this.maxBytesPerKey, MAX_FILES],
          nowMs + COMMAND_TIMEOUT_MS,
        ),
      ),
    );
    switch (kind) {
      case 'stored':
        return {
          id,
          keyId,
          bytes,
          pieces,
          name,
          purpose,
          createdAtMs: value,
          expiresAtMs: value + this.ttlMs,
        };
      case 'used up':
        throw this.#usedUp(value);
      case 'too many':
        throw new Problem('file_allowance_used', {
          detail: `The key has ${MAX_FILES} files, which is the maximum. Delete files, or wait until they expire`,
        });
      case 'revoked':
        throw new Problem('invalid_api_key');
      case 'late':
      case 'missing':
        throw new Problem('unavailable');
    }
  }

  #usedUp(stored: number): Problem {
    return new Problem('file_allowance_used', {
      detail: `The upload does not fit: the files of this key use ${stored} of ${this.maxBytesPerKey} bytes. Delete files, or wait until they expire`,
    });
  }
}

const noFile = (id: string) =>
  new Problem('not_found', { detail: `Not Found: no file of this key has the id "${id}"` });
