import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { isStorageFull, type Log, names } from '@sluice/shared';
import type { Redis, Result } from 'ioredis';
import { fromRedis, Problem } from '../http/problem.js';

// The script stays in src/: two folders up from src/limits and from dist/limits alike.
const lua = readFileSync(new URL('../../src/limits/streamLimit.lua', import.meta.url), 'utf8');

declare module 'ioredis' {
  interface RedisCommander<Context> {
    streamLimit(keyCount: number, ...keysAndArgs: (string | number)[]): Result<unknown, Context>;
  }
}

/** A stream counts as open until this long after it was last renewed, in milliseconds: its gateway may have died. */
const EXPIRES_AFTER_MS = 30_000;
const RENEW_EVERY_MS = 10_000;
/** It cannot be predicted when a client closes a stream. */
const RETRY_AFTER_SECONDS = '5';

/** Limits the streams of events that a key may hold at once, at all gateways together. */
export class StreamLimit {
  #redis: Redis;
  #max: number;
  #log: Log;

  /** @param max streams of a key */
  constructor(redis: Redis, max: number, log: Log) {
    this.#redis = redis;
    this.#max = max;
    this.#log = log;
    redis.defineCommand('streamLimit', { lua });
  }

  /**
   * Counts a stream as open until it is closed. While Redis is full every stream may open.
   * @returns a function that closes the stream; may be called twice
   * @throws Problem `too_many_streams` or `unavailable`
   */
  async open(keyId: string): Promise<() => void> {
    const id = randomUUID();
    const set = (ttlMs: number) => this.#redis.streamLimit(1, names.streams(keyId), id, ttlMs, this.#max);
    const opened = await fromRedis(
      set(EXPIRES_AFTER_MS).catch((error: unknown) => {
        if (isStorageFull(error)) return 1;
        throw error;
      }),
    );
    if (opened !== 1)
      throw new Problem('too_many_streams', { headers: { 'Retry-After': RETRY_AFTER_SECONDS } });
    const onError = (err: unknown) => this.#log.debug({ err }, 'Could not renew or close a stream of events');
    const timer = setInterval(() => void set(EXPIRES_AFTER_MS).catch(onError), RENEW_EVERY_MS);
    return () => {
      clearInterval(timer);
      set(0).catch(onError);
    };
  }
}
