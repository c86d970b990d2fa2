import { EventEmitter } from 'node:events';
import { performance } from 'node:perf_hooks';
import type { Redis } from 'ioredis';

const SAMPLE_EVERY_MS = 100;
/** A sample whose round trip took longer says little about the middle of it. */
const SLOW_SAMPLE_MS = 250;
/** Redis counts as away when it has not answered for this long. */
const AWAY_AFTER_MS = 800;
/** A beat that comes this much late says that this process was paused, not that Redis is silent. */
const PAUSED_MS = 250;

/** Milliseconds since the epoch on Redis's own clock, with a fraction: `TIME` gives microseconds. */
export async function redisTimeMs(redis: Redis): Promise<number> {
  const [seconds, microseconds] = await redis.time();
  return Number(seconds) * 1000 + Number(microseconds) / 1000;
}

/**
 * Redis's time, kept as an offset to the monotonic clock of this process, so that deadlines mean the same in
 * every process whatever their machines' clocks say. Its samples are also the pulse: `away` is emitted once
 * when Redis stops answering.
 */
export class RedisClock extends EventEmitter<{ away: [] }> {
  #redis: Redis;
  #offsetMs: number | undefined;
  #heardMs = Number.NEGATIVE_INFINITY;
  #away = true;
  #sampling = false;
  #timer: NodeJS.Timeout;
  #beatMs = performance.now();

  /** @param redis a connection whose commands time out (role `request`), or one that waits (role `worker`) */
  constructor(redis: Redis) {
    super();
    this.#redis = redis;
    this.#timer = setInterval(() => this.#beat(), SAMPLE_EVERY_MS);
    this.#beat();
  }

  /** Whether Redis has not answered lately, or not yet. */
  get away(): boolean {
    return this.#away;
  }

  /** Redis's time in milliseconds since the epoch; undefined before the first answer. */
  now(): number | undefined {
    return this.#offsetMs === undefined ? undefined : performance.now() + this.#offsetMs;
  }

  #beat(): void {
    void this.#sample();
    const nowMs = performance.now();
    const lateMs = nowMs - this.#beatMs - SAMPLE_EVERY_MS;
    this.#beatMs = nowMs;
    if (lateMs > PAUSED_MS) this.#heardMs += lateMs;
    if (!this.#away && nowMs - this.#heardMs > AWAY_AFTER_MS) {
      this.#away = true;
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
      this.#heardMs = receivedMs;
      if (this.#offsetMs === undefined || receivedMs - sentMs < SLOW_SAMPLE_MS) {
        this.#offsetMs = timeMs - (sentMs + receivedMs) / 2;
      }
      this.#away = false;
    } catch {
      // Silence is what counts, and the connection reports its own errors: #beat sees the one, `error` the other.
    } finally {
      this.#sampling = false;
    }
  }

  close(): void {
    clearInterval(this.#timer);
    this.removeAllListeners();
  }
}
