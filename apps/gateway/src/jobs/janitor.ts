import {
  type ChunkRef,
  chunkRefSchema,
  enqueueChunks,
  gatewayHashes,
  isFinished,
  isStorageFull,
  type JobRecord,
  keyChangeSchema,
  type Ledger,
  type Log,
  messageId,
  names,
  type RedisClock,
  redisTimeMs,
} from '@sluice/shared';
import type { Redis, Result } from 'ioredis';
import type { Files } from '../files/files.js';
import type { Catalog } from '../models/catalog.js';
import type { Webhooks } from '../webhooks/webhooks.js';
import { endJob } from './ending.js';
import { NOT_IN_TIME } from './reasons.js';

const SWEEP_EVERY_MS = 1_000;
/** A gateway that died during a sweep delays the next one by up to this long, in milliseconds. */
const LEASE_MS = 5_000;
const RENEW_EVERY_MS = 1_500;
/** A chunk that is in flight for this long without a message in the queue was lost on its way to the queue. */
const LOST_AFTER_MS = 2_000;
/**
 * A job fails when sweeps have not seen a gateway with its configuration for this long, in milliseconds: a gateway may be restarting,
 * or Redis may have been away.
 */
const MISSING_MS = 30_000;
/** After a longer pause between two such sweeps, in milliseconds, the time begins anew. */
const MISSING_TTL_MS = 15_000;
/** Changes of keys that one sweep logs. */
const CHANGES_PER_SWEEP = 100;
/** Maximum number of jobs that one sweep ends, and that it erases. */
const JOBS_PER_SWEEP = 100;

interface JanitorOptions {
  redis: Redis;
  clock: RedisClock;
  ledger: Ledger;
  catalog: Catalog;
  files: Files;
  webhooks: Webhooks;
  gatewayId: string;
  log: Log;
}

/** Sets the expiry of the lease if this gateway holds it. KEYS: lease. ARGV: gateway, ms. */
const renewLua = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])`;

declare module 'ioredis' {
  interface RedisCommander<Context> {
    renewLease(keyCount: number, ...keysAndArgs: (string | number)[]): Result<unknown, Context>;
  }
}

/**
 * Sweeps once a second, one gateway at a time. A sweep moves outbox entries to the queue of webhooks, enqueues lost chunks, cancels the jobs of revoked keys, fails jobs
 * that took too long or whose model was changed, erases expired ones and expired files, and logs key changes made with `sluice keys`. Its cost depends on the callers
 * with work, not on the finished jobs.
 */
export class Janitor {
  #options: JanitorOptions;
  #timer: NodeJS.Timeout;
  #sweeping = false;

  constructor(options: JanitorOptions) {
    this.#options = options;
    const { redis, clock, log } = options;
    redis.defineCommand('renewLease', { lua: renewLua });
    this.#timer = setInterval(() => {
      if (clock.away || this.#sweeping) return;
      this.#sweeping = true;
      this.#sweepAlone()
        .catch((err: unknown) => log.debug({ err }, 'Sweep interrupted'))
        .finally(() => {
          this.#sweeping = false;
        });
    }, SWEEP_EVERY_MS);
  }

  close(): void {
    clearInterval(this.#timer);
  }

  /** Sweeps unless another gateway does, or has within {@link SWEEP_EVERY_MS}. */
  async #sweepAlone(): Promise<void> {
    const { redis, gatewayId, log } = this.#options;
    const startedMs = performance.now();
    // A full Redis refuses the lease, but sweeping frees memory, so sweep without it: sweeps at once only repeat work.
    const lease = await redis
      .set(names.sweep, gatewayId, 'PX', LEASE_MS, 'NX')
      .catch((error: unknown) => (isStorageFull(error) ? 'OK' : Promise.reject(error)));
    if (lease === null) return;
    const setLease = (ms: number) =>
      redis
        .renewLease(1, names.sweep, gatewayId, Math.max(1, Math.round(ms)))
        .catch((err: unknown) => log.debug({ err }, 'Could not renew the lease of the sweep'));
    const renewal = setInterval(() => void setLease(LEASE_MS), RENEW_EVERY_MS);
    try {
      await this.#sweep();
    } finally {
      clearInterval(renewal);
      await setLease(SWEEP_EVERY_MS - 50 - (performance.now() - startedMs));
    }
  }

  async #sweep(): Promise<void> {
    const { redis } = this.#options;
    const nowMs = await redisTimeMs(redis);
    await this.#forEach(await redis.smembers(names.callers), (caller) => this.#sweepCaller(caller, nowMs));
    await this.#forEach(await this.#due(names.unfinished, nowMs), (jobId) => this.#failLate(jobId));
    await this.#forEach(await this.#due(names.finished, nowMs), (member) => this.#erase(member));
    await this.#forEach(await this.#due(names.expiringFiles, nowMs), (member) =>
      this.#eraseFile(member, nowMs),
    );
    await this.#logKeyChanges();
    // Last, since a full Redis refuses it.
    await this.#options.webhooks.moveOutbox();
  }

  /** An error with one job or caller must not stop the others. */
  async #forEach(members: readonly string[], repair: (member: string) => Promise<void>): Promise<void> {
    for (const member of members) {
      await repair(member).catch((err: unknown) =>
        // `Storage` logs that Redis is full.
        this.#options.log[isStorageFull(err) ? 'debug' : 'warn'](
          { err, member },
          'Sweep could not repair this job or caller',
        ),
      );
    }
  }

  /** Logs changes of keys that were made with `sluice keys`. */
  async #logKeyChanges(): Promise<void> {
    const { redis, log } = this.#options;
    for (const text of (await redis.lpop(names.keyChanges, CHANGES_PER_SWEEP)) ?? []) {
      const change = keyChangeSchema.safeParse(text);
      if (change.success) log.info({ key_id: change.data.keyId, by: change.data.by }, change.data.what);
      else log.warn('Dropped a malformed key change');
    }
  }

  #due(key: string, nowMs: number): Promise<string[]> {
    return this.#options.redis.zrangebyscore(key, '-inf', nowMs, 'LIMIT', 0, JOBS_PER_SWEEP);
  }

  async #sweepCaller(caller: string, nowMs: number): Promise<void> {
    const { redis, ledger, catalog } = this.#options;
    const [modelId = '', keyId = ''] = caller.split(' ');
    const model = catalog.find(modelId);
    if ((await redis.hget(names.key(keyId), 'revoked_at_ms')) !== null) {
      for (const job of await ledger.unfinished(keyId)) {
        await endJob(this.#options, job, 'canceled', 'The API key was revoked');
      }
    }
    const old = await redis.zrangebyscore(names.inFlight(modelId, keyId), '-inf', nowMs - LOST_AFTER_MS);
    for (const ref of old.map((member) => chunkRefSchema.parse(member))) {
      const job = await ledger.read(ref.jobId);
      const isLive = job !== undefined && !isFinished(job.status);
      if (isLive && job.specHash !== model?.spec.hash) await this.#sweepOther(job, ref, nowMs);
      else if (model && (await model.bulkQueue.getJobState(messageId(ref))) !== 'unknown') continue;
      else if (model && isLive) await enqueueChunks(model.bulkQueue, [ref]);
      // A record of another version is left to gateways of that version.
      else if (!(await ledger.isLive(ref.jobId))) {
        // The job's record is gone. This stores nothing, but it removes the chunk from those in flight.
        const gone = { id: ref.jobId, keyId, modelId };
        const { handedOut } = await ledger.store(gone, ref.chunk, [], [], catalog.maxChunksInFlight(modelId));
        if (model) await enqueueChunks(model.bulkQueue, handedOut);
      }
    }
  }

  /**
   * Repairs a chunk of a job whose model this gateway has with another configuration, or not at all. Answers of two
   * configurations must not be mixed, so the job fails when no live gateway has its configuration any more.
   */
  async #sweepOther(job: JobRecord, ref: ChunkRef, nowMs: number): Promise<void> {
    const { redis, catalog } = this.#options;
    const { modelId, specHash } = job;
    const missing = names.missingSince(modelId, specHash);
    const queue = catalog.otherBulkQueue(modelId, specHash);
    try {
      if ((await gatewayHashes(redis, modelId, nowMs)).has(specHash)) {
        if ((await queue.getJobState(messageId(ref))) === 'unknown') await enqueueChunks(queue, [ref]);
        return;
      }
      // A full Redis refuses this; it has no room for announcements either.
      await redis.set(missing, nowMs, 'PX', MISSING_TTL_MS, 'NX');
      await redis.pexpire(missing, MISSING_TTL_MS);
      const sinceMs = await redis.get(missing);
      // A gateway may have announced the configuration a moment ago, which deletes it.
      if (sinceMs === null || nowMs - Number(sinceMs) < MISSING_MS) return;
      await endJob(this.#options, job, 'failed', 'The configuration of the model was changed');
      await queue.obliterate({ force: true });
    } finally {
      await queue.close();
    }
  }

  async #failLate(jobId: string): Promise<void> {
    const { redis, ledger } = this.#options;
    const job = await ledger.unfinishedRef(jobId);
    if (job === undefined) await redis.zrem(names.unfinished, jobId);
    else await endJob(this.#options, job, 'failed', NOT_IN_TIME);
  }

  async #eraseFile(member: string, nowMs: number): Promise<void> {
    const [keyId = '', fileId = ''] = member.split(' ');
    await this.#options.files.erase(keyId, fileId, nowMs);
  }

  async #erase(member: string): Promise<void> {
    const [keyId = '', jobId = ''] = member.split(' ');
    await this.#options.ledger.erase(jobId, keyId);
  }
}
