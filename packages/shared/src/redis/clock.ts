import { EventEmitter, once } from 'node:events';
import { performance } from 'node:perf_hooks';
import type { Redis } from 'ioredis';
import type { Log } from '../log.js';
import { outageOf } from './connection.js';

const SAMPLE_EVERY_MS = 100;
/** A sample with a longer round trip is too imprecise to use. */
const SLOW_SAMPLE_MS = 250;
/** Redis counts as away when it has not answered for this long. */
const AWAY_AFTER_MS = 800;
/** A timer that fires this late means that this process was paused, not that Redis is silent. */
const PAUSED_MS = 250;

/** Milliseconds since the epoch on Redis's own clock, with a fraction: `TIME` gives microseconds. */
export async function redisTimeMs(redis: Redis): Promise<number> {
  const [seconds, microseconds] = await redis.time();
  return Number(seconds) * 1000 + Number(microseconds) / 1000;
}

/**
 * Redis's time, kept as an offset to the monotonic clock of this process, so that deadlines mean the same in every
 * process, whatever the clocks of their machines say. Its samples also show that Redis is alive: `away` is emitted
 * once when Redis stops answering, and `answered` when it answers for the first time, or again.
 */
export class RedisClock extends EventEmitter<{ away: []; answered: [] }> {
  #redis: Redis;
  #log: Log;
  #offsetMs: number | undefined;
  #lastAnswerMs = Number.NEGATIVE_INFINITY;
  #away = true;
  #sampling = false;
  #timer: NodeJS.Timeout;
  #lastTickMs = performance.now();

  /** @param redis a connection whose commands time out (role `request`), or one that waits (role `worker`) */
  constructor(redis: Redis, log: Log) {
    super();
    // Each model listens.
    this.setMaxListeners(0);
    this.#redis = redis;
    this.#log = log;
    this.#timer = setInterval(() => this.#tick(), SAMPLE_EVERY_MS);
    this.#tick();
  }

  /** Whether Redis has stopped answering, or has not answered yet. */
  get away(): boolean {
    return this.#away;
  }

  /** Resolves to whether Redis answers, or starts to within this time in milliseconds. */
  async answered(withinMs: number): Promise<boolean> {
    if (!this.#away) return true;
    return once(this, 'answered', { signal: AbortSignal.timeout(withinMs) }).then(
      () => true,
      () => false,
    );
  }

  /** Redis's time in milliseconds since the epoch; undefined before the first answer. */
  now(): number | undefined {
    return this.#offsetMs === undefined ? undefined : performance.now() + this.#offsetMs;
  }

  #tick(): void {
    void this.#sample();
    const nowMs = performance.now();
    const lateMs = nowMs - this.#lastTickMs - SAMPLE_EVERY_MS;
    this.#lastTickMs = nowMs;
    if (lateMs > PAUSED_MS) this.#lastAnswerMs += lateMs;
    if (!this.#away && nowMs - this.#lastAnswerMs > AWAY_AFTER_MS) {
      this.#away = true;
      outageOf(this.#redis)?.begin(this, new Error(`No answer for ${AWAY_AFTER_MS} ms`), this.#log);
      this.emit('away');
    }
  }

  async #sample(): Promise<void> {
    if (this.#sampling || this.#redis.status !== 'ready') return;
    this.#sampling = true;
    try {
      const sentMs = performance.now();
      const timeMs = await redisTimeMs(this.#redis);
      const receivedMs = performance.now();
      this.#lastAnswerMs = receivedMs;
      if (this.#offsetMs === undefined || receivedMs - sentMs < SLOW_SAMPLE_MS) {
        this.#offsetMs = timeMs - (sentMs + receivedMs) / 2;
      }
      outageOf(this.#redis)?.end(this, this.#log);
      if (!this.#away) return;
      this.#away = false;
      this.emit('answered');
    } catch {
      // #tick notices the missing answer, and the connection reports its own errors.
    } finally {
      this.#sampling = false;
    }
  }

  close(): void {
    clearInterval(this.#timer);
    this.removeAllListeners();
  }
}
