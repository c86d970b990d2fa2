import type { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Heartbeat } from '../fleet/heartbeat.js';
import { CHUNK_VERSION, type ChunkJob } from '../queue/payload.js';
import { redisTimeMs } from '../redis/clock.js';
import { names } from '../redis/names.js';
import { type ChunkRef, chunkRef, type Ending, isFinished, type Ledger } from './ledger.js';

/** A caller has so many chunks out for each live model process, and at least {@link LEAST_OUT}. */
const OUT_PER_PROCESS = 4;
const LEAST_OUT = 8;
/** A chunk that is out for this long without a job in the queue was lost between the mark and the queue. */
const LOST_AFTER_MS = 2_000;
/** Batches that one sweep ends or erases. */
const SWEEP_AT_ONCE = 100;

/** How many chunks of one caller may be out at once for a model: so a plain queue takes callers in turn. */
export function mostOut(workers: readonly Heartbeat[], model: string): number {
  const processes = workers
    .filter((worker) => worker.model === model)
    .reduce((sum, worker) => sum + worker.processes, 0);
  return Math.max(LEAST_OUT, OUT_PER_PROCESS * processes);
}

const queueId = ({ jobId, chunk }: ChunkRef) => `${jobId}.${chunk}`;

/**
 * Puts chunks that are marked out into the queue. One that is there already stays as it is.
 * @throws what the Redis connection throws; the sweep then puts them in
 */
export async function enqueueChunks(queue: Queue<ChunkJob>, marked: readonly ChunkRef[]): Promise<void> {
  if (marked.length === 0) return;
  await queue.addBulk(
    marked.map((ref) => ({
      name: 'chunk',
      data: { v: CHUNK_VERSION, jobId: ref.jobId, chunk: ref.chunk },
      opts: { jobId: queueId(ref), removeOnComplete: true, removeOnFail: true },
    })),
  );
}

/** Takes the chunks of a batch that has ended out of the queue, as far as no worker has them, and puts others in. */
export async function followEnd(queue: Queue<ChunkJob>, { dropped, marked }: Ending): Promise<void> {
  await Promise.all(dropped.map((ref) => queue.remove(queueId(ref))));
  await enqueueChunks(queue, marked);
}

interface SweepOptions {
  redis: Redis;
  ledger: Ledger;
  /** The bulk queue of a model; undefined for a model that is not configured here. */
  queueOf: (model: string) => Queue<ChunkJob> | undefined;
  /** How many chunks of a caller may be out for a model. */
  mostOutFor: (model: string) => number;
  /** A sweep of another gateway holds for so long, in milliseconds. */
  everyMs: number;
  /** Hears what went wrong with one batch or caller; the others go on. */
  onError: (err: unknown, one: string) => void;
}

/**
 * Mends what a death in between has left, ends what took too long and erases what is due. One gateway at a time does
 * it. Its cost grows with callers that have work, not with batches that are finished.
 */
export async function sweep({
  redis,
  ledger,
  queueOf,
  mostOutFor,
  everyMs,
  onError,
}: SweepOptions): Promise<void> {
  if ((await redis.set(names.sweeper, '1', 'PX', Math.max(1, everyMs - 50), 'NX')) === null) return;
  const nowMs = await redisTimeMs(redis);

  /** What is wrong with one must not stop the rest. */
  const each = async (of: readonly string[], mend: (one: string) => Promise<void>) => {
    for (const one of of) await mend(one).catch((err: unknown) => onError(err, one));
  };

  await each(await redis.smembers(names.callers), async (caller) => {
    const [model = '', keyId = ''] = caller.split(' ');
    const queue = queueOf(model);
    if (queue === undefined) return;
    if ((await redis.hget(names.key(keyId), 'revoked_at_ms')) !== null) {
      for (const record of await ledger.unfinished(keyId)) {
        await followEnd(
          queue,
          await ledger.end(record, 'canceled', 'The API key was revoked', mostOutFor(model)),
        );
      }
    }
    const out = await redis.zrangebyscore(names.out(model, keyId), '-inf', nowMs - LOST_AFTER_MS);
    for (const ref of out.map((member) => chunkRef.parse(member))) {
      if ((await queue.getJobState(queueId(ref))) !== 'unknown') continue;
      if (await ledger.isLive(ref.jobId)) await enqueueChunks(queue, [ref]);
      // Its record is gone: this stores nothing, takes the mark away and lets others go on.
      else
        await enqueueChunks(
          queue,
          await ledger.store({ id: ref.jobId, keyId, model }, ref.chunk, [], mostOutFor(model)),
        );
    }
  });

  await each(
    await redis.zrangebyscore(names.unfinished, '-inf', nowMs, 'LIMIT', 0, SWEEP_AT_ONCE),
    async (id) => {
      const record = await ledger.read(id);
      if (record === undefined || isFinished(record.status)) {
        await redis.zrem(names.unfinished, id);
        return;
      }
      const ending = await ledger.end(record, 'failed', 'Not finished in time', mostOutFor(record.model));
      const queue = queueOf(record.model);
      if (queue) await followEnd(queue, ending);
    },
  );

  await each(
    await redis.zrangebyscore(names.finished, '-inf', nowMs, 'LIMIT', 0, SWEEP_AT_ONCE),
    async (member) => {
      const [keyId = '', id = ''] = member.split(' ');
      await ledger.erase(id, keyId);
    },
  );
}
