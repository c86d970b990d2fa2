import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
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
    const set = (ttlMs: number) => this.#redis.concurrencyLimit(1, name, id, ttlMs, this.#max);
    const begun = await set(EXPIRES_AFTER_MS).catch((error: unknown) => {
      if (isStorageFull(error)) return 1;
      throw error;
    });
    if (begun !== 1) return undefined;
    const onError = (err: unknown) => this.#log.debug({ err }, 'Could not update a concurrency limit');
    const timer = setInterval(() => void set(EXPIRES_AFTER_MS).catch(onError), RENEW_EVERY_MS);
    return () => {
      clearInterval(timer);
      set(0).catch(onError);
    };
  }
}
