import { type Log, PREFIX } from '@sluice/shared';
import { type Job, Worker } from 'bullmq';
import type { Redis } from 'ioredis';

/** After an error of Redis the queue is asked again this much later. */
const RETRY_MS = 1_000;

interface QueueWorkerOptions {
  redis: Redis;
  queueName: string;
  /** How many jobs this worker holds at once. */
  prefetch: number;
  /** A job whose worker is dead is taken by another after this, in milliseconds; it is looked for every half of it. */
  lockMs: number;
  /** How many workers may die under a job before it fails. */
  maxStalled: number;
  log: Log;
}

/** A BullMQ worker as each lane needs it. Its errors are told; it goes on by itself when Redis is back. */
export function startQueueWorker(
  { redis, queueName, prefetch, lockMs, maxStalled, log }: QueueWorkerOptions,
  process: (job: Job<unknown, void>) => Promise<void>,
): Worker<unknown, void> {
  const worker = new Worker<unknown, void>(queueName, process, {
    connection: redis,
    prefix: PREFIX,
    concurrency: prefetch,
    lockDuration: lockMs,
    stalledInterval: lockMs / 2,
    maxStalledCount: maxStalled,
    runRetryDelay: RETRY_MS,
  });
  worker.on('error', (err) => log.debug({ err }, 'Queue error'));
  worker.on('failed', (job, err) => log.warn({ err, id: job?.id, queue: queueName }, 'A job failed'));
  return worker;
}
