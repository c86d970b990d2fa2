import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { isStorageFull, type Log } from '@sluice/shared';
import type { Redis, Result } from 'ioredis';

// The script stays in src/: two folders up from src/limits and from dist/limits alike.
const lua = readFileSync(new URL('../../src/limits/concurrencyLimit.lua', import.meta.url), 'utf8');

declare module 'ioredis' {
  interface RedisCommander<Context> {
    concurrencyLimit(keyCount: number, ...keysAndArgs: (string | number)[]): Result<unknown, Context>;
  }
}

/** An activity counts until this long after it was last renewed, in milliseconds: its gateway may have died. */
const EXPIRES_AFTER_MS = 30_000;
const RENEW_EVERY_MS = 10_000;
/** While Redis is away, the end of an activity is tried again after this long, in milliseconds. */
const END_AGAIN_MS = 500;

/** A limited number of activities at once, at all gateways together, such as the streams of events of a key. */
export class ConcurrencyLimit {
  #redis: Redis;
  #max: number;
  #log: Log;

  constructor(redis: Redis, max: number, log: Log) {
    this.#redis = redis;
    this.#max = max;
    this.#log = log;
    redis.defineCommand('concurrencyLimit', { lua });
  }

  /**
   * Counts an activity until it ends. While Redis is full there is no limit.
   * @param name of the activities in Redis
   * @returns a function that ends it, which may be called twice; undefined if there are too many
   * @throws what the Redis connection throws
   */
  async begin(name: string): Promise<(() => void) | undefined> {
    const id = randomUUID();
    const begun = await this.#set(name, id, EXPIRES_AFTER_MS).catch((error: unknown) => {
      if (isStorageFull(error)) return 1;
      // Redis may have counted it although its answer was lost.
      void this.#end(name, id);
      throw error;
    });
    if (begun !== 1) return undefined;
    const timer = setInterval(() => void this.#update(name, id, EXPIRES_AFTER_MS), RENEW_EVERY_MS);
    return () => {
      clearInterval(timer);
      void this.#end(name, id);
    };
  }

  /** Ends an activity, also if Redis is away now: without its end it would count until it expires. */
  async #end(name: string, id: string): Promise<void> {
    const untilMs = performance.now() + EXPIRES_AFTER_MS;
    while (!(await this.#update(name, id, 0)) && performance.now() < untilMs)
      await delay(END_AGAIN_MS, undefined, { ref: false });
  }

  /** Renews or ends an activity; resolves to whether Redis has confirmed it. */
  async #update(name: string, id: string, ttlMs: number): Promise<boolean> {
    try {
      await this.#set(name, id, ttlMs);
      return true;
    } catch (err) {
      this.#log.debug({ err }, 'Could not update a concurrency limit');
      return false;
    }
  }

  #set(name: string, id: string, ttlMs: number): Promise<unknown> {
    return this.#redis.concurrencyLimit(1, name, id, ttlMs, this.#max);
  }
}
