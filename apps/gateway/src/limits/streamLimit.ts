import { type Log, names } from '@sluice/shared';
import type { Redis } from 'ioredis';
import { fromRedis, Problem } from '../http/problem.js';
import { ConcurrencyLimit } from './concurrencyLimit.js';

/** It cannot be predicted when a client closes a stream. */
const RETRY_AFTER_SECONDS = '5';

/** Limits the streams of events that a key may hold at once, at all gateways together. */
export class StreamLimit {
  #concurrency: ConcurrencyLimit;

  /** @param max streams of a key */
  constructor(redis: Redis, max: number, log: Log) {
    this.#concurrency = new ConcurrencyLimit(redis, max, log);
  }

  /**
   * Counts a stream as open until it is closed.
   * @returns a function that closes the stream; may be called twice
   * @throws Problem `too_many_streams` or `unavailable`
   */
  async open(keyId: string): Promise<() => void> {
    const close = await fromRedis(this.#concurrency.begin(names.streams(keyId)));
    if (close) return close;
    throw new Problem('too_many_streams', { headers: { 'Retry-After': RETRY_AFTER_SECONDS } });
  }
}
