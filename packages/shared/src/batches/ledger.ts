import { readFileSync } from 'node:fs';
import type { Redis, Result } from 'ioredis';
import { z } from 'zod';
import { json } from '../json.js';
import { names } from '../redis/names.js';

/** Texts of a chunk, the unit that a worker takes. */
export const CHUNK_TEXTS = 32;
/** What an upload has staged goes after this long without another piece, in milliseconds. */
const STAGE_TTL_MS = 60_000;
/** A piece of an upload goes to Redis when it has so many bytes, or is so old: each renews what is there already. */
const PIECE_BYTES = 128 * 1024;
const PIECE_MS = 10_000;

// Two folders up from src/batches as well as from dist/batches.
const read = (file: string) => readFileSync(new URL(`../../src/batches/${file}`, import.meta.url), 'utf8');
const script = (file: string) => `${read('lib.lua')}\n${read(file)}`;

declare module 'ioredis' {
  interface RedisCommander<Context> {
    claimIdempotency(keyCount: number, ...keysAndArgs: (string | number)[]): Result<unknown, Context>;
    acceptBatch(keyCount: number, ...keysAndArgs: (string | number)[]): Result<unknown, Context>;
    storeChunk(keyCount: number, ...keysAndArgs: (string | number)[]): Result<unknown, Context>;
    endBatch(keyCount: number, ...keysAndArgs: (string | number)[]): Result<unknown, Context>;
    eraseBatch(keyCount: number, ...keysAndArgs: (string | number)[]): Result<unknown, Context>;
  }
}

export const jobStatusSchema = z.enum(['queued', 'running', 'completed', 'failed', 'canceled']);
export type JobStatus = z.infer<typeof jobStatusSchema>;

/** One text of a batch, with the caller's own id if it gave one. */
export const itemSchema = z.object({ text: z.string(), id: z.string().optional() });
export type Item = z.infer<typeof itemSchema>;

/** What became of a text of a batch. */
export const itemResultSchema = z.union([
  z.object({
    labels: z.array(z.object({ label: z.string(), score: z.number() })).min(1),
    truncated: z.literal(true).optional(),
  }),
  z.object({ error: z.enum(['analysis_timed_out', 'analysis_failed']) }),
]);
export type ItemResult = z.infer<typeof itemResultSchema>;

const number = z.coerce.number();
const recordSchema = z
  .object({
    v: z.literal('1'),
    id: z.string(),
    key_id: z.string(),
    model: z.string(),
    revision: z.string(),
    status: jobStatusSchema,
    total: number,
    chunks: number,
    stored: number,
    completed: number,
    failed: number,
    created_at_ms: number,
    started_at_ms: number.optional(),
    finished_at_ms: number.optional(),
    expires_at_ms: number.optional(),
    error: z.string().optional(),
  })
  .transform((record) => ({
    id: record.id,
    keyId: record.key_id,
    model: record.model,
    revision: record.revision,
    status: record.status,
    total: record.total,
    chunks: record.chunks,
    /** Chunks whose results are stored. */
    stored: record.stored,
    /** Texts with an answer. */
    completed: record.completed,
    /** Texts with an error of their own. */
    failed: record.failed,
    createdAtMs: record.created_at_ms,
    startedAtMs: record.started_at_ms,
    finishedAtMs: record.finished_at_ms,
    expiresAtMs: record.expires_at_ms,
    error: record.error,
  }));

/** The record of a batch: the only truth about it. */
export type BatchRecord = z.infer<typeof recordSchema>;

/** A chunk that is marked out: to be put into the queue. */
export interface ChunkRef {
  jobId: string;
  chunk: number;
}

/** What an `end` came to. */
export interface Ending {
  ended: boolean;
  dropped: ChunkRef[];
  marked: ChunkRef[];
}

/** What an `accept` came to. */
export type Acceptance =
  | { kind: 'accepted'; nowMs: number; marked: ChunkRef[] }
  | { kind: 'late' | 'missing' | 'revoked' | 'replaced' }
  | { kind: 'too large'; limit: number }
  | { kind: 'allowance'; limit: number; queued: number };

/** An idempotency entry as an upload finds it. */
export type IdempotencyState =
  | { kind: 'mine' }
  | { kind: 'arriving' }
  | { kind: 'known'; jobId: string; fingerprint: string };

export const isFinished = (status: JobStatus): boolean => status !== 'queued' && status !== 'running';

/** A chunk as the ZSET of those out has it. */
export const chunkRef = z.string().transform((member, context): ChunkRef => {
  const [, jobId, chunk] = /^(.+)\/(\d+)$/.exec(member) ?? [];
  if (jobId !== undefined) return { jobId, chunk: Number(chunk) };
  context.addIssue({ code: 'custom', message: 'not a chunk' });
  return z.NEVER;
});
const storedReply = z.tuple([z.number()], chunkRef);
const endReply = z.tuple([z.number(), z.array(chunkRef), z.array(chunkRef)]);
const acceptReply = z.union([
  z
    .tuple([z.literal('accepted'), z.number()], chunkRef)
    .transform(([kind, nowMs, ...marked]): Acceptance => ({ kind, nowMs, marked })),
  z.tuple([z.literal('too large'), z.number()]).transform(([kind, limit]): Acceptance => ({ kind, limit })),
  z
    .tuple([z.literal('allowance'), z.number(), z.number()])
    .transform(([kind, limit, queued]): Acceptance => ({ kind, limit, queued })),
  z.tuple([z.enum(['late', 'missing', 'revoked', 'replaced'])]).transform(([kind]): Acceptance => ({ kind })),
]);
const claimReply = z.tuple([z.string(), z.string()]);
const chunkItems = json(z.array(itemSchema));
const chunkResults = json(z.array(itemResultSchema));

interface LedgerOptions {
  /** How long an ended batch is kept, in milliseconds. */
  resultTtlMs: number;
  /** A batch that is not finished after this long fails, in milliseconds. */
  batchTimeoutMs: number;
}

/** Batches in Redis: accepted whole or not at all, each chunk stored once, ended once. */
export class Ledger {
  #redis: Redis;
  #options: LedgerOptions;

  constructor(redis: Redis, options: LedgerOptions) {
    this.#redis = redis;
    this.#options = options;
    redis.defineCommand('claimIdempotency', { lua: read('claim.lua') });
    redis.defineCommand('acceptBatch', { lua: script('accept.lua') });
    redis.defineCommand('storeChunk', { lua: script('store.lua') });
    redis.defineCommand('endBatch', { lua: script('end.lua') });
    redis.defineCommand('eraseBatch', { lua: script('erase.lua') });
  }

  /** Begins an upload. */
  stage(jobId: string, idempotencyKey: string | undefined): Stage {
    return new Stage(this.#redis, jobId, idempotencyKey);
  }

  /**
   * Claims an idempotency entry for an upload, or tells what stands there. An entry whose batch is gone, or gave no
   * answers, counts as absent.
   */
  async claim(idempotencyKey: string, jobId: string): Promise<IdempotencyState> {
    for (let absent = ''; ; ) {
      const reply = await this.#redis.claimIdempotency(1, idempotencyKey, jobId, STAGE_TTL_MS, absent);
      const [owner, fingerprint] = claimReply.parse(reply);
      if (owner === jobId) return { kind: 'mine' };
      if (fingerprint === '') return { kind: 'arriving' };
      const record = await this.read(owner);
      if (record && record.status !== 'failed' && record.status !== 'canceled') {
        return { kind: 'known', jobId: owner, fingerprint };
      }
      absent = owner;
    }
  }

  /**
   * Accepts what an upload has staged, in one call: record, texts, idempotency entry and reservation, or none.
   * @param mostOut how many chunks of the caller may be out at once
   * @param notAfterMs Redis's time after which nothing is written, because whoever asked has gone
   */
  async accept(
    stage: Stage,
    batch: {
      keyId: string;
      model: string;
      revision: string;
      fingerprint: string;
      mostOut: number;
      notAfterMs: number;
    },
  ): Promise<Acceptance> {
    const { jobId, texts, chunks, idempotencyKey } = stage;
    const { keyId, model } = batch;
    const keys = [
      names.stage(jobId),
      names.job(jobId),
      names.texts(jobId),
      names.key(keyId),
      names.jobs(keyId),
      names.feed(model, keyId),
      names.out(model, keyId),
      names.callers,
      names.unfinished,
    ];
    return acceptReply.parse(
      await this.#redis.acceptBatch(
        keys.length,
        ...keys,
        jobId,
        caller(model, keyId),
        keyId,
        model,
        texts,
        chunks,
        this.#options.batchTimeoutMs,
        batch.mostOut,
        batch.notAfterMs,
        batch.fingerprint,
        names.job(''),
        idempotencyKey ?? '',
        batch.revision,
      ),
    );
  }

  /** A batch's record; undefined when there is none. */
  async read(jobId: string): Promise<BatchRecord | undefined> {
    const stored = await this.#redis.hgetall(names.job(jobId));
    return Object.keys(stored).length === 0 ? undefined : recordSchema.parse(stored);
  }

  /** Whether a batch is still to be worked on. */
  async isLive(jobId: string): Promise<boolean> {
    const status = await this.#redis.hget(names.job(jobId), 'status');
    return status === 'queued' || status === 'running';
  }

  /** The texts of a chunk; undefined when the batch is gone. */
  async texts(jobId: string, chunk: number): Promise<Item[] | undefined> {
    const stored = await this.#redis.hget(names.texts(jobId), String(chunk));
    return stored === null ? undefined : chunkItems.parse(stored);
  }

  /** Texts and results of some chunks, in order; results undefined where none are stored. */
  async chunks(jobId: string, from: number, count: number) {
    const fields = Array.from({ length: count }, (_, i) => String(from + i));
    if (fields.length === 0) return [];
    const [texts, results] = await Promise.all([
      this.#redis.hmget(names.texts(jobId), ...fields),
      this.#redis.hmget(names.results(jobId), ...fields),
    ]);
    return texts.flatMap((stored, i) => {
      if (stored === null) return [];
      const result = results[i];
      return [{ items: chunkItems.parse(stored), results: result ? chunkResults.parse(result) : undefined }];
    });
  }

  /**
   * Stores the results of a chunk, once, however often it is tried.
   * @returns the chunks that are marked out now in its place
   */
  async store(
    record: Pick<BatchRecord, 'id' | 'keyId' | 'model'>,
    chunk: number,
    results: readonly ItemResult[],
    mostOut: number,
  ): Promise<ChunkRef[]> {
    const errors = results.filter((result) => 'error' in result).length;
    const keys = endKeys(record);
    const [, ...marked] = storedReply.parse(
      await this.#redis.storeChunk(
        keys.length,
        ...keys,
        record.id,
        chunk,
        caller(record.model, record.keyId),
        JSON.stringify(results),
        results.length - errors,
        errors,
        mostOut,
        this.#options.resultTtlMs,
        names.job(''),
      ),
    );
    return marked;
  }

  /**
   * Ends a batch that is unfinished.
   * @param reason why it failed; empty for one that was canceled
   * @returns whether it was unfinished, its chunks that were out, and those of other batches that are marked out in
   *   their place
   */
  async end(
    record: Pick<BatchRecord, 'id' | 'keyId' | 'model'>,
    status: 'failed' | 'canceled',
    reason: string,
    mostOut: number,
  ): Promise<Ending> {
    const keys = endKeys(record);
    const [ended, dropped, marked] = endReply.parse(
      await this.#redis.endBatch(
        keys.length,
        ...keys,
        record.id,
        caller(record.model, record.keyId),
        status,
        reason,
        mostOut,
        this.#options.resultTtlMs,
        names.job(''),
      ),
    );
    return { ended: ended === 1, dropped, marked };
  }

  /** Erases a finished batch, or what is left of one that is gone. Returns false for an unfinished one. */
  async erase(jobId: string, keyId: string): Promise<boolean> {
    const keys = [
      names.job(jobId),
      names.texts(jobId),
      names.results(jobId),
      names.jobs(keyId),
      names.finished,
    ];
    return (await this.#redis.eraseBatch(keys.length, ...keys, jobId, keyId)) === 1;
  }

  /**
   * A caller's batches, newest first.
   * @param offset how many to leave out
   * @returns the records, and whether there are more behind them
   */
  async list(
    keyId: string,
    offset: number,
    count: number,
  ): Promise<{ records: BatchRecord[]; more: boolean }> {
    const ids = await this.#redis.zrevrange(names.jobs(keyId), offset, offset + count);
    const records = await Promise.all(ids.slice(0, count).map((id) => this.read(id)));
    // One whose time is over may still be listed.
    return { records: records.filter((record) => record !== undefined), more: ids.length > count };
  }

  /** A caller's batches that are unfinished. */
  async unfinished(keyId: string): Promise<BatchRecord[]> {
    const ids = await this.#redis.zrange(names.jobs(keyId), '0', '-1');
    const records = await Promise.all(ids.map((id) => this.read(id)));
    return records.filter((record) => record !== undefined).filter(({ status }) => !isFinished(status));
  }
}

const caller = (model: string, keyId: string) => `${model} ${keyId}`;

function endKeys({ id, keyId, model }: Pick<BatchRecord, 'id' | 'keyId' | 'model'>): string[] {
  return [
    names.job(id),
    names.texts(id),
    names.results(id),
    names.key(keyId),
    names.feed(model, keyId),
    names.out(model, keyId),
    names.callers,
    names.unfinished,
    names.finished,
    names.changes,
  ];
}

/** An upload on its way: what of it has arrived stands under keys that go by themselves. */
export class Stage {
  #redis: Redis;
  #chunk: Item[] = [];
  #piece: string[] = [];
  #bytes = 0;
  #sentMs = performance.now();
  /** Texts so far. */
  texts = 0;
  /** Chunks that are staged, or will be with the next piece. */
  chunks = 0;
  /** Pieces that have gone to Redis. */
  pieces = 0;

  constructor(
    redis: Redis,
    readonly jobId: string,
    readonly idempotencyKey: string | undefined,
  ) {
    this.#redis = redis;
  }

  /** Takes a text; now and then a piece goes to Redis. */
  async add(item: Item): Promise<void> {
    this.#chunk.push(item);
    this.texts++;
    if (this.#chunk.length === CHUNK_TEXTS) this.#closeChunk();
    if (this.#bytes >= PIECE_BYTES || performance.now() - this.#sentMs > PIECE_MS) await this.#send();
  }

  /** Sends what is left. */
  async flush(): Promise<void> {
    if (this.#chunk.length > 0) this.#closeChunk();
    await this.#send();
  }

  /** Sends the chunks that are full, if any, and renews what is there. */
  async #send(): Promise<void> {
    const piece = this.#piece;
    this.#piece = [];
    this.#bytes = 0;
    this.#sentMs = performance.now();
    const transaction = this.#redis.multi();
    if (piece.length > 0) transaction.hset(names.stage(this.jobId), ...piece);
    transaction.pexpire(names.stage(this.jobId), STAGE_TTL_MS);
    if (this.idempotencyKey) transaction.pexpire(this.idempotencyKey, STAGE_TTL_MS);
    const replies = await transaction.exec();
    for (const [error] of replies ?? []) if (error) throw error;
    this.pieces++;
  }

  /** Leaves nothing of the upload. */
  async discard(): Promise<void> {
    await this.#redis.del(names.stage(this.jobId));
    if (!this.idempotencyKey) return;
    // Only an entry that is still this upload's own: an accepted one has its fingerprint.
    const [owner, fingerprint] = await this.#redis.hmget(this.idempotencyKey, 'job', 'fingerprint');
    if (owner === this.jobId && fingerprint === null) await this.#redis.del(this.idempotencyKey);
  }

  #closeChunk(): void {
    const json = JSON.stringify(this.#chunk);
    this.#piece.push(String(this.chunks++), json);
    this.#bytes += json.length;
    this.#chunk = [];
  }
}
