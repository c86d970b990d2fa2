import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { type Log, PREFIX } from '@sluice/shared';
import { Job, UnrecoverableError, Worker } from 'bullmq';
import type { Redis } from 'ioredis';

/** After an error of Redis the queue is asked again this much later, in milliseconds. */
const RETRY_MS = 1_000;
/** An idle fetch looks again after so long, in seconds: a worker that died with the wake-up of a job in its hands is not missed. */
const LOOK_AGAIN_SECONDS = 1;

interface QueueReaderOptions {
  redis: Redis;
  queueName: string;
  /** A job whose worker is dead is taken by another after this, in milliseconds; it is looked for every half of it. */
  lockMs: number;
  /** How many workers may die under a job before it fails. */
  maxStalled: number;
  /** Whether another job may be taken now; {@link QueueReader.wake} says when that may have changed. */
  hasRoom: () => boolean;
  /** Does a job. It is told of a job before the next one is asked for. */
  work: (job: Job<unknown, void>) => Promise<void>;
  log: Log;
}

/**
 * Takes the jobs of one queue, as long as there is room for what is in them, and finishes each when its work is done.
 *
 * BullMQ's own loop counts jobs, not what they hold, and looks for more only when a job ends. So this fetches by hand
 * (https://docs.bullmq.io/patterns/manually-fetching-jobs), and does what is then left to do: renews the locks of what
 * it holds, and has the queue looked through for jobs whose worker is dead.
 */
export class QueueReader {
  #worker: Worker<unknown, void>;
  #options: QueueReaderOptions;
  /** The id of each job that is held, by the token of its lock: a job that was lost may be held once more. */
  #held = new Map<string, string>();
  #works = new Set<Promise<void>>();
  #renewals: NodeJS.Timeout;
  #renewing = false;
  #loop: Promise<void>;
  #closing = false;
  #wake: () => void = () => {};

  constructor(options: QueueReaderOptions) {
    const { redis, queueName, lockMs, maxStalled, log } = options;
    this.#options = options;
    this.#worker = new Worker<unknown, void>(queueName, null, {
      connection: redis,
      prefix: PREFIX,
      lockDuration: lockMs,
      stalledInterval: lockMs / 2,
      maxStalledCount: maxStalled,
      drainDelay: LOOK_AGAIN_SECONDS,
    });
    this.#worker.on('error', (err) => log.debug({ err }, 'Queue error'));
    this.#renewals = setInterval(() => void this.#renew(), lockMs / 2);
    void this.#worker.startStalledCheckTimer();
    this.#loop = this.#run();
  }

  /** Says that there may be room again. */
  wake(): void {
    this.#wake();
  }

  /**
   * Takes no more jobs, and finishes those it has.
   * @param force without finishing them
   */
  async close(force: boolean): Promise<void> {
    this.#closing = true;
    this.#wake();
    if (!force) await Promise.all(this.#works);
    // Cuts off a fetch that waits; one that has its job already brings it.
    await this.#worker.close(true);
    if (!force) {
      await this.#loop;
      await Promise.all(this.#works);
    }
    clearInterval(this.#renewals);
  }

  async #run(): Promise<void> {
    const { hasRoom, log } = this.#options;
    while (!this.#closing) {
      if (!hasRoom()) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        continue;
      }
      const token = randomUUID();
      try {
        const job = await this.#worker.getNextJob(token);
        if (job !== undefined) this.#hold(job, token);
      } catch (err) {
        if (await this.#expel(token)) continue;
        log.debug({ err }, 'The queue could not be asked');
        await delay(RETRY_MS, undefined, { ref: false });
      }
    }
  }

  #hold(job: Job<unknown, void>, token: string): void {
    this.#held.set(token, job.id ?? '');
    const work = this.#work(job, token).finally(() => {
      this.#held.delete(token);
      this.#works.delete(work);
    });
    this.#works.add(work);
  }

  async #work(job: Job<unknown, void>, token: string): Promise<void> {
    const { work, queueName, log } = this.#options;
    try {
      // BullMQ's mark on a job that too many workers have died under.
      if (job.deferredFailure) throw new Error(job.deferredFailure);
      await work(job);
    } catch (error) {
      log.warn({ err: error, id: job.id, queue: queueName }, 'A job failed');
      const reason = error instanceof Error ? error.message : String(error);
      await job
        .moveToFailed(new UnrecoverableError(reason), token)
        .catch((err: unknown) => log.debug({ err, id: job.id }, 'A failed job was not finished'));
      return;
    }
    // A job whose lock was lost is another worker's now.
    await job
      .moveToCompleted(undefined, token, false)
      .catch((err: unknown) => log.debug({ err, id: job.id }, 'A job was not finished'));
  }

  /**
   * Fails a job that was fetched and is none, which somebody else has put there: BullMQ throws then, and would have it
   * fetched again and again. Resolves to whether there was one.
   * @param token of its lock
   */
  async #expel(token: string): Promise<boolean> {
    const { redis, queueName, log } = this.#options;
    // It was the connection that failed.
    if (redis.status !== 'ready') return false;
    try {
      for (const id of await redis.lrange(this.#worker.toKey('active'), 0, -1)) {
        if ((await redis.get(`${this.#worker.toKey(id)}:lock`)) !== token) continue;
        const record = this.#worker.toKey(id);
        const hasRecord = (await redis.type(record)) === 'hash';
        // The fetch failed for another reason: its lock runs out, and it is taken again.
        if (hasRecord && (await this.#isReadable(id))) return false;
        log.warn({ id, queue: queueName }, 'A job failed: what stands in Redis is no job');
        // Only what has a record can fail.
        if (!hasRecord) await redis.multi().del(record).hset(record, 'name', 'not a job').exec();
        const job = new Job(this.#worker, 'not a job', null, {}, id);
        await job.moveToFailed(new UnrecoverableError('Not a job: its record cannot be read'), token);
        return true;
      }
    } catch (err) {
      log.debug({ err }, 'A job that is none was not finished');
    }
    return false;
  }

  async #isReadable(id: string): Promise<boolean> {
    try {
      await Job.fromId(this.#worker, id);
      return true;
    } catch {
      // What cannot be asked now is not called unreadable for it.
      return this.#options.redis.status !== 'ready';
    }
  }

  async #renew(): Promise<void> {
    const { redis, lockMs, log } = this.#options;
    // Without Redis the calls would pile up.
    if (this.#held.size === 0 || this.#renewing || redis.status !== 'ready') return;
    this.#renewing = true;
    await this.#worker
      .extendJobLocks([...this.#held.values()], [...this.#held.keys()], lockMs)
      .catch((err: unknown) => log.debug({ err }, 'Locks could not be renewed'));
    this.#renewing = false;
  }
}
