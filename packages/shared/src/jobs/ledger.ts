import { readFileSync } from 'node:fs';
import type { Redis, Result } from 'ioredis';
import * as z from 'zod';
import { pack, packed } from '../binary.js';
import { json } from '../json.js';
import { ALLOW_WHEN_FULL, isStorageFull } from '../redis/errors.js';
import { names } from '../redis/names.js';
import type { TraceContext } from '../telemetry/tracing.js';
import { JobLists } from './lists.js';
import {
  type ChunkRef,
  chunkRefSchema,
  inputsOf,
  type JobItem,
  type JobRecord,
  type JobRef,
  type JobStatus,
  jobItemSchema,
  jobRecordOf,
  RECORD_VERSION,
  type StoredResult,
  storedResultSchema,
} from './records.js';
import { Stage, startsOf } from './stage.js';

// The scripts stay in src/: two folders up from src/jobs and from dist/jobs alike.
const read = (file: string) => readFileSync(new URL(`../../src/jobs/${file}`, import.meta.url), 'utf8');
const script = (file: string) => `${read('lib.lua')}\n${read(file)}`;

declare module 'ioredis' {
  interface RedisCommander<Context> {
    acceptJob(keyCount: number, ...keysAndArgs: (string | number)[]): Result<unknown, Context>;
    storeChunk(keyCount: number, ...keysAndArgs: (string | number | Buffer)[]): Result<unknown, Context>;
    endJob(keyCount: number, ...keysAndArgs: (string | number)[]): Result<unknown, Context>;
    endJobWhenFull(keyCount: number, ...keysAndArgs: (string | number)[]): Result<unknown, Context>;
    eraseJob(keyCount: number, ...keysAndArgs: (string | number)[]): Result<unknown, Context>;
  }
}

/** The URL that is notified when a job ends, and what the job is called there. */
export interface JobWebhook {
  url: string;
  kind: 'job' | 'batch';
}

/** The result of {@link Ledger.end}. */
export interface Ending {
  /** Whether the job was unfinished. */
  ended: boolean;
  /** Its chunks that were in flight. */
  withdrawn: ChunkRef[];
  /** Chunks of the caller's other jobs that are handed out instead. */
  handedOut: ChunkRef[];
}

/** The result of {@link Ledger.accept}. */
export type Acceptance =
  | { kind: 'accepted'; nowMs: number; handedOut: ChunkRef[] }
  /** The idempotency entry names this job. */
  | { kind: 'known'; jobId: string }
  | { kind: 'mismatch' | 'late' | 'missing' | 'revoked' }
  | { kind: 'too large'; limit: number }
  | { kind: 'allowance'; limit: number; queued: number };

/** The result of {@link Ledger.store}. */
export interface Storing {
  /** Whether this ended the job. */
  ended: boolean;
  /** Chunks that are handed out in its place. */
  handedOut: ChunkRef[];
}

type EndedStatus = Exclude<JobStatus, 'queued' | 'running'>;

/** The result of {@link Ledger.counts}. */
interface JobCounts {
  unfinished: Record<'queued' | 'running', number>;
  /** Jobs that have ended so far, also those that have been erased since. */
  ended: Record<EndedStatus, number>;
  /** Rows of a model's unfinished jobs that have no result yet. */
  rows: (modelId: string) => number;
}

const storeReply = z.tuple([z.number()], chunkRefSchema);
const endReply = z.tuple([z.number(), z.array(chunkRefSchema), z.array(chunkRefSchema)]);
const acceptReply = z.union([
  z
    .tuple([z.literal('accepted'), z.number()], chunkRefSchema)
    .transform(([kind, nowMs, ...handedOut]): Acceptance => ({ kind, nowMs, handedOut })),
  z.tuple([z.literal('known'), z.string()]).transform(([kind, jobId]): Acceptance => ({ kind, jobId })),
  z.tuple([z.literal('too large'), z.number()]).transform(([kind, limit]): Acceptance => ({ kind, limit })),
  z
    .tuple([z.literal('allowance'), z.number(), z.number()])
    .transform(([kind, limit, queued]): Acceptance => ({ kind, limit, queued })),
  z.tuple([z.enum(['mismatch', 'late', 'missing', 'revoked'])]).transform(([kind]): Acceptance => ({ kind })),
]);
const chunkItems = json(z.array(jobItemSchema));
const chunkResults = packed(z.array(storedResultSchema));

interface LedgerOptions {
  /** How long a finished job is kept, in milliseconds. */
  resultTtlMs: number;
  /** A job that is not finished after this long fails, in milliseconds. */
  jobTimeoutMs: number;
}

/** Jobs in Redis. Each is accepted as a whole or not at all; each chunk is stored once, and each job ends once. */
export class Ledger {
  /** The jobs in their order. */
  readonly lists: JobLists;
  #redis: Redis;
  #options: LedgerOptions;

  constructor(redis: Redis, options: LedgerOptions) {
    this.lists = new JobLists(redis);
    this.#redis = redis;
    this.#options = options;
    redis.defineCommand('acceptJob', { lua: script('accept.lua') });
    redis.defineCommand('storeChunk', { lua: script('store.lua') });
    redis.defineCommand('endJob', { lua: script('end.lua') });
    redis.defineCommand('endJobWhenFull', { lua: `${ALLOW_WHEN_FULL}\n${script('end.lua')}` });
    redis.defineCommand('eraseJob', { lua: script('erase.lua') });
  }

  /** Begins an upload. */
  stage(jobId: string): Stage {
    return new Stage(this.#redis, jobId);
  }

  /**
   * Accepts a staged upload in one call: record, items, idempotency entry and reservation, all or none. Of several uploads
   * with the same idempotency entry the first one that is accepted creates the job.
   * @param idempotencyKey name of the entry in Redis
   * @param maxInFlight how many chunks of the caller may be in flight
   * @param notAfterMs Redis's time after which nothing is written, because the request has been answered by then
   */
  async accept(
    stage: Stage,
    job: {
      keyId: string;
      modelId: string;
      revision: string;
      specHash: string;
      parameters: unknown;
      /** What the API family keeps with the job. */
      details?: unknown;
      /** The file that it was made from, which is kept for some time after the job has ended. */
      file?: { record: string; ttlMs: number };
      webhook?: JobWebhook;
      /** The trace of the request, which those of its chunks and its webhook link to. */
      trace?: TraceContext | undefined;
      idempotencyKey: string | undefined;
      fingerprint: string;
      maxInFlight: number;
      notAfterMs: number;
    },
  ): Promise<Acceptance> {
    const { jobId, items, chunks } = stage;
    const { keyId, modelId } = job;
    const keys = [
      names.stage(jobId),
      names.stageStarts(jobId),
      names.job(jobId),
      names.items(jobId),
      names.starts(jobId),
      names.key(keyId),
      names.jobs(keyId),
      names.backlog(modelId, keyId),
      names.inFlight(modelId, keyId),
      names.callers,
      names.unfinished,
      names.resultBytes,
      names.counts,
    ];
    return acceptReply.parse(
      await this.#redis.acceptJob(
        keys.length,
        ...keys,
        jobId,
        caller(modelId, keyId),
        keyId,
        modelId,
        items,
        chunks,
        this.#options.jobTimeoutMs,
        job.maxInFlight,
        job.notAfterMs,
        job.fingerprint,
        names.job(''),
        job.idempotencyKey ?? '',
        job.revision,
        JSON.stringify(job.parameters),
        Math.ceil(stage.resultBytes / Math.max(1, stage.inputs)),
        job.specHash,
        stage.inputs,
        job.details === undefined ? '' : JSON.stringify(job.details),
        job.file?.record ?? '',
        job.file?.ttlMs ?? '',
        names.expiringFiles,
        job.webhook === undefined ? '' : JSON.stringify(job.webhook),
        names.outbox,
        stage.rows,
        job.trace === undefined ? '' : JSON.stringify(job.trace),
      ),
    );
  }

  /**
   * Records a job that failed before it had any items.
   * @param reason why
   */
  async recordFailed(
    jobId: string,
    {
      keyId,
      modelId,
      reason,
      details,
      webhook,
      trace,
      nowMs,
    }: {
      keyId: string;
      modelId: string;
      reason: string;
      details: unknown;
      webhook: JobWebhook | undefined;
      trace?: TraceContext | undefined;
      nowMs: number;
    },
  ): Promise<void> {
    const now = Math.round(nowMs);
    const expires = now + this.#options.resultTtlMs;
    const record = {
      v: RECORD_VERSION,
      id: jobId,
      key_id: keyId,
      model: modelId,
      revision: '',
      spec_hash: '',
      parameters: '{}',
      status: 'failed',
      total: 0,
      chunks: 0,
      stored: 0,
      completed: 0,
      failed: 0,
      created_at_ms: now,
      finished_at_ms: now,
      expires_at_ms: expires,
      error: reason,
      details: JSON.stringify(details),
    };
    const transaction = this.#redis.multi();
    // As the scripts append it when any other job ends.
    const entry = {
      job: jobId,
      key: keyId,
      status: 'failed',
      reason,
      at: now,
      webhook: JSON.stringify(webhook),
      ...(trace ? { trace: JSON.stringify(trace) } : {}),
    };
    if (webhook) transaction.rpush(names.outbox, JSON.stringify(entry));
    const replies = await transaction
      .hset(names.job(jobId), record)
      .hincrby(names.counts, 'ended failed', 1)
      .pexpireat(names.job(jobId), expires)
      .zadd(names.jobs(keyId), now, jobId)
      .zadd(names.finished, expires, `${keyId} ${jobId}`)
      .exec();
    for (const [error] of replies ?? []) if (error) throw error;
  }

  /** Reads a job's record. Returns undefined if the job does not exist, or if its record has another version. */
  async read(jobId: string): Promise<JobRecord | undefined> {
    return jobRecordOf(await this.#redis.hgetall(names.job(jobId)));
  }

  /** Counts of jobs and of the rows that wait, of all gateways. */
  async counts(): Promise<JobCounts> {
    const stored = await this.#redis.hgetall(names.counts);
    const unfinished = (status: 'queued' | 'running') => Number(stored[status] ?? 0);
    const ended = (status: EndedStatus) => Number(stored[`ended ${status}`] ?? 0);
    return {
      unfinished: { queued: unfinished('queued'), running: unfinished('running') },
      ended: { completed: ended('completed'), failed: ended('failed'), canceled: ended('canceled') },
      rows: (modelId) => Number(stored[`rows ${modelId}`] ?? 0),
    };
  }

  /** The ids of an unfinished job, even if its record is of another version; undefined for any other job. */
  async unfinishedRef(jobId: string): Promise<JobRef | undefined> {
    const [status, keyId, modelId] = await this.#redis.hmget(names.job(jobId), 'status', 'key_id', 'model');
    if ((status !== 'queued' && status !== 'running') || !keyId || !modelId) return undefined;
    return { id: jobId, keyId, modelId };
  }

  /** Whether a job is unfinished. */
  async isLive(jobId: string): Promise<boolean> {
    return (await this.unfinishedRef(jobId)) !== undefined;
  }

  /** The items of a chunk; undefined when the job is gone. */
  async items(jobId: string, chunk: number): Promise<JobItem[] | undefined> {
    const stored = await this.#redis.hget(names.items(jobId), String(chunk));
    return stored === null ? undefined : chunkItems.parse(stored);
  }

  /** Whether the results of a chunk are stored. */
  async isStored(jobId: string, chunk: number): Promise<boolean> {
    return (await this.#redis.hexists(names.results(jobId), String(chunk))) === 1;
  }

  /** Items and results of some chunks, in order; `results` is undefined for a chunk that is not stored. */
  async chunks(jobId: string, from: number, count: number) {
    const fields = Array.from({ length: count }, (_, i) => String(from + i));
    if (fields.length === 0) return [];
    const [items, results] = await Promise.all([
      this.#redis.hmget(names.items(jobId), ...fields),
      this.#redis.hmgetBuffer(names.results(jobId), ...fields),
    ]);
    return items.flatMap((stored, i) => {
      if (stored === null) return [];
      const result = results[i];
      return [{ items: chunkItems.parse(stored), results: result ? chunkResults.parse(result) : undefined }];
    });
  }

  /** The size of an output of a finished job as a file, if it is known. */
  async outputBytes(jobId: string, output: string): Promise<number | undefined> {
    const known = await this.#redis.hget(names.job(jobId), `${output}_bytes_shown`);
    return known === null ? undefined : Number(known);
  }

  /** Keeps that size with the job, unless the job is gone. */
  async keepOutputBytes(jobId: string, output: string, bytes: number): Promise<void> {
    const name = names.job(jobId);
    const replies = await this.#redis
      .multi()
      .hset(name, `${output}_bytes_shown`, bytes)
      .hget(name, 'id')
      .exec();
    for (const [error] of replies ?? []) if (error) throw error;
    // A job that has expired meanwhile must not come back as a record without an expiry.
    if (replies?.[1]?.[1] === null) await this.#redis.del(name);
  }

  /** The index of the first item of each chunk; empty when the job is gone. */
  async starts(jobId: string): Promise<number[]> {
    return startsOf((await this.#redis.getBuffer(names.starts(jobId))) ?? Buffer.alloc(0));
  }

  /**
   * Stores the results of a chunk, once, even if it is called several times.
   * @returns whether this ended the job, and the chunks that are handed out in its place
   */
  async store(
    job: JobRef,
    chunk: number,
    items: readonly JobItem[],
    results: readonly StoredResult[],
    maxInFlight: number,
  ): Promise<Storing> {
    const errors = results.filter((result) => 'error' in result).length;
    const keys = endKeys(job);
    const [ended, ...handedOut] = storeReply.parse(
      await this.#redis.storeChunk(
        keys.length,
        ...keys,
        job.id,
        chunk,
        caller(job.modelId, job.keyId),
        pack(results),
        results.length - errors,
        errors,
        maxInFlight,
        this.#options.resultTtlMs,
        names.job(''),
        items.reduce((sum, item) => sum + inputsOf(item).length, 0),
      ),
    );
    return { ended: ended === 1, handedOut };
  }

  /**
   * Ends a job that is unfinished, also when Redis is full, since that frees memory (with Redis 7 or later).
   * @param reason why it failed, or who canceled it; may be empty for a canceled job
   * @param unlessReplayed leaves a job as it is whose id a replay of its request has been answered with
   */
  async end(
    job: JobRef,
    status: 'failed' | 'canceled',
    reason: string,
    maxInFlight: number,
    { unlessReplayed = false }: { unlessReplayed?: boolean } = {},
  ): Promise<Ending> {
    const keys = endKeys(job);
    const call = [
      keys.length,
      ...keys,
      job.id,
      caller(job.modelId, job.keyId),
      status,
      reason,
      maxInFlight,
      this.#options.resultTtlMs,
      names.job(''),
      unlessReplayed ? '1' : '',
    ] as const;
    const reply = await this.#redis.endJob(...call).catch((error: unknown) => {
      if (!isStorageFull(error)) throw error;
      return this.#redis.endJobWhenFull(...call).catch(() => {
        throw error;
      });
    });
    const [ended, withdrawn, handedOut] = endReply.parse(reply);
    return { ended: ended === 1, withdrawn, handedOut };
  }

  /** Erases a finished job, or the rest of one whose record has expired. Returns false for an unfinished job. */
  async erase(jobId: string, keyId: string): Promise<boolean> {
    const keys = [
      names.job(jobId),
      names.items(jobId),
      names.results(jobId),
      names.starts(jobId),
      names.jobs(keyId),
      names.finished,
    ];
    return (await this.#redis.eraseJob(keys.length, ...keys, jobId, keyId)) === 1;
  }

  /** A caller's unfinished jobs. */
  async unfinished(keyId: string): Promise<JobRef[]> {
    const ids = await this.#redis.zrange(names.jobs(keyId), '0', '-1');
    const refs = await Promise.all(ids.map((id) => this.unfinishedRef(id)));
    return refs.filter((ref) => ref !== undefined);
  }
}

const caller = (modelId: string, keyId: string) => `${modelId} ${keyId}`;

function endKeys({ id, keyId, modelId }: JobRef): string[] {
  return [
    names.job(id),
    names.items(id),
    names.results(id),
    names.starts(id),
    names.resultBytes,
    names.key(keyId),
    names.backlog(modelId, keyId),
    names.inFlight(modelId, keyId),
    names.callers,
    names.unfinished,
    names.finished,
    names.changes,
    names.counts,
  ];
}
