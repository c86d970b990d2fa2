import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { type Log, PREFIX } from '@sluice/shared';
import { Job, UnrecoverableError, Worker } from 'bullmq';
import type { Redis, Result } from 'ioredis';

/** After an error the queue is read again after this long, in milliseconds. */
const RETRY_MS = 1_000;
/** An idle reader polls after this long, in seconds: a dead worker may have consumed the marker of a new message. */
const POLL_SECONDS = 1;

declare module 'ioredis' {
  interface RedisCommander<Context> {
    removeStaleMarker(wait: string, marker: string): Result<0 | 1, Context>;
  }
}

/**
 * BullMQ sets a marker when a message is added, and again when one is taken, since more may wait. If none waits, that second
 * marker would wake a worker for nothing. Returns whether messages wait; if none does, removes the marker.
 */
const REMOVE_STALE_MARKER = `
if redis.call('LLEN', KEYS[1]) > 0 then return 1 end
redis.call('ZREM', KEYS[2], '0')
return 0`;

/** Counts rows as held by this worker; returns a function that releases them, which may be called twice. */
export type HoldRows = (rows: number) => () => void;

interface QueueReaderOptions {
  redis: Redis;
  queueName: string;
  /**
   * How long a message is locked, in milliseconds. If its worker is dead, another one takes it after this; stalled
   * messages are looked for every half of it.
   */
  lockMs: number;
  /** How many workers may die with a message before it fails. */
  maxStalled: number;
  /** While this many rows are held, no further message is taken; the last message may exceed it. */
  maxRows: () => number;
  /**
   * Processes a message. It must call `hold` before its first `await`, because the next message is taken then.
   * @throws Error for a malformed message, which is moved to failed
   */
  work: (data: unknown, hold: HoldRows) => Promise<void>;
  log: Log;
}

/**
 * Takes messages from one queue while fewer rows than the maximum are held, and completes each when its work is done.
 *
 * BullMQ's own loop counts messages, not their rows, and looks for more only when one completes. So messages are fetched
 * by hand (https://docs.bullmq.io/patterns/manually-fetching-jobs). That leaves two duties to this class: it renews the
 * locks of held messages, and it has the queue checked for stalled messages, whose worker is dead.
 */
export class QueueReader {
  #worker: Worker<unknown, void>;
  /** A separate connection, because waiting for a marker blocks it. */
  #blocking: Redis;
  #options: QueueReaderOptions;
  /** Held messages by the token of their lock. A message whose lock was lost may be held twice. */
  #held = new Map<string, Job<unknown, void>>();
  #works = new Set<Promise<void>>();
  #heldRows = 0;
  #renewals: NodeJS.Timeout;
  #renewing = false;
  #loop: Promise<void>;
  #closing = false;
  /** Whether the time for the held messages is over. */
  #isOver = false;
  #stopWaiting: () => void = () => {};
  #wake: () => void = () => {};

  constructor(options: QueueReaderOptions) {
    const { redis, queueName, lockMs, maxStalled, log } = options;
    this.#options = options;
    redis.defineCommand('removeStaleMarker', { numberOfKeys: 2, lua: REMOVE_STALE_MARKER });
    this.#blocking = redis.duplicate();
    this.#blocking.on('error', (err) => log.debug({ err }, 'Connection that waits for messages failed'));
    this.#worker = new Worker<unknown, void>(queueName, null, {
      connection: redis,
      prefix: PREFIX,
      lockDuration: lockMs,
      stalledInterval: lockMs / 2,
      maxStalledCount: maxStalled,
    });
    this.#worker.on('error', (err) => log.debug({ err }, 'Queue error'));
    this.#renewals = setInterval(() => void this.#renewLocks(), lockMs / 2);
    void this.#worker.startStalledCheckTimer();
    this.#loop = this.#run();
  }

  /**
   * Takes no more messages, and finishes the held ones.
   * @param withinMs time for the held messages, in milliseconds; then it returns the rest to the queue. Undefined when Redis is away: it
   *   stops at once, and the locks of the held messages expire
   */
  async close(withinMs: number | undefined): Promise<void> {
    this.#closing = true;
    this.#wake();
    // Ends the wait for a marker; a fetch under way still delivers its message.
    this.#stopWaiting();
    this.#blocking.disconnect();
    if (withinMs === undefined) this.#isOver = true;
    else {
      const finished = this.#loop.then(() => Promise.all(this.#works));
      await Promise.race([finished, delay(withinMs, undefined, { ref: false })]);
      this.#isOver = true;
      await this.#returnHeld();
    }
    await this.#worker.close(true);
    clearInterval(this.#renewals);
  }

  /** Returns the held messages to the queue, so that another worker takes them at once. A second run of an item is harmless. */
  async #returnHeld(): Promise<void> {
    const { queueName, log } = this.#options;
    if (this.#held.size === 0) return;
    log.info({ queue: queueName, messages: this.#held.size }, 'Returning unfinished messages to the queue');
    await Promise.all(Array.from(this.#held, ([token, message]) => this.#returnToQueue(message, token)));
  }

  /** Returns a message to the queue. If this fails, its lock expires, and another worker takes it then. */
  async #returnToQueue(message: Job<unknown, void>, token: string): Promise<void> {
    const { log } = this.#options;
    await message.moveToWait(token).catch((err: unknown) => log.debug({ err }, 'Could not return a message'));
  }

  async #run(): Promise<void> {
    const { redis, maxRows, log } = this.#options;
    let mayHaveMore = true;
    while (!this.#closing) {
      if (this.#heldRows >= maxRows()) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        continue;
      }
      const token = randomUUID();
      try {
        const marker = mayHaveMore ? undefined : await this.#awaitMarker();
        if (this.#closing) {
          // For another worker.
          if (marker) redis.zadd(this.#worker.toKey('marker'), 0, '0').catch(() => {});
          return;
        }
        const fetching = this.#worker.getNextJob(token, { block: false });
        // Sent after the fetch, in the same write.
        const checking = new Promise<void>((resolve) => process.nextTick(resolve)).then(() =>
          this.#hasMore(),
        );
        const message = await fetching;
        if (message !== undefined && this.#isOver) void this.#returnToQueue(message, token);
        else if (message !== undefined) this.#start(message, token);
        // A paused queue gives no message although some wait.
        mayHaveMore = (await checking) && message !== undefined;
      } catch (err) {
        if (this.#closing) return;
        if (await this.#failMalformed(token)) continue;
        log.debug({ err }, 'Could not read the queue');
        await delay(RETRY_MS, undefined, { ref: false });
      }
    }
  }

  /** Waits until a message may be in the queue. Resolves to the marker, if it was removed for this. */
  #awaitMarker(): Promise<unknown> {
    return new Promise((resolve, reject) => {
      // A connection that is closed while it is interrupted never answers.
      this.#stopWaiting = () => resolve(undefined);
      this.#blocking.bzpopmin(this.#worker.toKey('marker'), POLL_SECONDS).then(resolve, reject);
    });
  }

  /** Whether more messages wait. If none does, it also removes the marker. */
  async #hasMore(): Promise<boolean> {
    const { redis, log } = this.#options;
    try {
      return (await redis.removeStaleMarker(this.#worker.toKey('wait'), this.#worker.toKey('marker'))) === 1;
    } catch (err) {
      log.debug({ err }, 'Could not look for more messages');
      return true;
    }
  }

  #start(message: Job<unknown, void>, token: string): void {
    this.#held.set(token, message);
    const work = this.#work(message, token).finally(() => {
      this.#held.delete(token);
      this.#works.delete(work);
    });
    this.#works.add(work);
  }

  async #work(message: Job<unknown, void>, token: string): Promise<void> {
    const { work, queueName, log } = this.#options;
    const releases: (() => void)[] = [];
    try {
      // BullMQ sets this on a message with which too many workers have died.
      if (message.deferredFailure) throw new Error(message.deferredFailure);
      await work(message.data, (rows) => {
        const release = this.#hold(rows);
        releases.push(release);
        return release;
      });
    } catch (error) {
      log.warn({ err: error, id: message.id, queue: queueName }, 'Message failed');
      const reason = error instanceof Error ? error.message : String(error);
      await message
        .moveToFailed(new UnrecoverableError(reason), token)
        .catch((err: unknown) => log.debug({ err, id: message.id }, 'Could not move a message to failed'));
      return;
    } finally {
      for (const release of releases) release();
    }
    // If the lock was lost, the message belongs to another worker now.
    await message
      .moveToCompleted(undefined, token, false)
      .catch((err: unknown) => log.debug({ err, id: message.id }, 'Could not complete a message'));
  }

  #hold(rows: number): () => void {
    this.#heldRows += rows;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.#heldRows -= rows;
      this.#wake();
    };
  }

  /**
   * Moves a fetched message to failed if its record is malformed. BullMQ throws on such a record, and would fetch it
   * again and again. Resolves to whether there was one.
   * @param token of its lock
   */
  async #failMalformed(token: string): Promise<boolean> {
    const { redis, queueName, log } = this.#options;
    // The connection failed, not the message.
    if (redis.status !== 'ready') return false;
    try {
      for (const id of await redis.lrange(this.#worker.toKey('active'), 0, -1)) {
        if ((await redis.get(`${this.#worker.toKey(id)}:lock`)) !== token) continue;
        const record = this.#worker.toKey(id);
        const hasRecord = (await redis.type(record)) === 'hash';
        // The fetch failed for another reason: the lock expires, and the message is taken again.
        if (hasRecord && (await this.#isReadable(id))) return false;
        log.warn({ id, queue: queueName }, 'Message failed: malformed record');
        // BullMQ can only fail a message that has a record.
        if (!hasRecord) await redis.multi().del(record).hset(record, 'name', 'malformed').exec();
        const message = new Job(this.#worker, 'malformed', null, {}, id);
        await message.moveToFailed(new UnrecoverableError('Malformed record'), token);
        return true;
      }
    } catch (err) {
      log.debug({ err }, 'Could not move a malformed message to failed');
    }
    return false;
  }

  async #isReadable(id: string): Promise<boolean> {
    try {
      await Job.fromId(this.#worker, id);
      return true;
    } catch {
      // A record that cannot be fetched now may still be well-formed.
      return this.#options.redis.status !== 'ready';
    }
  }

  async #renewLocks(): Promise<void> {
    const { redis, lockMs, log } = this.#options;
    // Without Redis the calls would pile up.
    if (this.#held.size === 0 || this.#renewing || redis.status !== 'ready') return;
    this.#renewing = true;
    await this.#worker
      .extendJobLocks(
        [...this.#held.values()].map(({ id = '' }) => id),
        [...this.#held.keys()],
        lockMs,
      )
      .catch((err: unknown) => log.debug({ err }, 'Could not renew locks'));
    this.#renewing = false;
  }
}
