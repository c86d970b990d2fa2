import type { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Heartbeat } from '../fleet/heartbeat.js';
import { type ChunkJob, PAYLOAD_VERSION } from '../queue/payload.js';
import { redisTimeMs } from '../redis/clock.js';
import { names } from '../redis/names.js';
import { type ChunkRef, type Ending, isFinished, type Ledger } from './ledger.js';

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
      data: { v: PAYLOAD_VERSION, jobId: ref.jobId, chunk: ref.chunk },
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
}

/**
 * Mends what a death in between has left, ends what took too long and erases what is due. One gateway at a time does
 * it. Its cost grows with callers that have work, not with batches that are finished.
 */
export async function sweep({ redis, ledger, queueOf, mostOutFor, everyMs }: SweepOptions): Promise<void> {
  if ((await redis.set(names.sweeper, '1', 'PX', Math.max(1, everyMs - 50), 'NX')) === null) return;
  const nowMs = await redisTimeMs(redis);

  for (const caller of await redis.smembers(names.callers)) {
    const [model = '', keyId = ''] = caller.split(' ');
    const queue = queueOf(model);
    if (queue === undefined) continue;
    const out = await redis.zrangebyscore(names.out(model, keyId), '-inf', nowMs - LOST_AFTER_MS);
    const refs = out.map((member): ChunkRef => {
      const at = member.lastIndexOf('/');
      return { jobId: member.slice(0, at), chunk: Number(member.slice(at + 1)) };
    });
    const jobs = await Promise.all(refs.map((ref) => queue.getJobState(queueId(ref))));
    await enqueueChunks(
      queue,
      refs.filter((_, i) => jobs[i] === 'unknown'),
    );
  }

  for (const id of await redis.zrangebyscore(names.unfinished, '-inf', nowMs, 'LIMIT', 0, SWEEP_AT_ONCE)) {
    const record = await ledger.read(id);
    if (record === undefined || isFinished(record.status)) {
      await redis.zrem(names.unfinished, id);
      continue;
    }
    const ending = await ledger.end(record, 'failed', 'Not finished in time', mostOutFor(record.model));
    const queue = queueOf(record.model);
    if (queue) await followEnd(queue, ending);
  }

  for (const member of await redis.zrangebyscore(names.finished, '-inf', nowMs, 'LIMIT', 0, SWEEP_AT_ONCE)) {
    const [keyId = '', id = ''] = member.split(' ');
    await ledger.erase(id, keyId);
  }
}
