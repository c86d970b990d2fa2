import { names } from '@sluice/shared';
import type { Redis } from 'ioredis';
import { Problem } from '../http/problem.js';
import { FixedWindow } from './fixedWindow.js';

/** Limits the requests of a key that use no slot of its rate limit: those about jobs, models and the key itself. */
export class ReadLimit {
  #window: FixedWindow;

  /** @param perMinute number of requests of a key in a minute after which further ones get 429 */
  constructor(redis: Redis, perMinute: number) {
    // Nothing is remembered: while Redis is full, results must be readable also for a key that was over the limit.
    this.#window = new FixedWindow(redis, { prefix: names.reads, perMinute, remember: false });
  }

  /** Counts a request. @throws Problem `rate_limited` or `unavailable` */
  async take(keyId: string): Promise<void> {
    const retryAfter = await this.#window.count(keyId);
    if (retryAfter !== undefined)
      throw new Problem('rate_limited', { headers: { 'Retry-After': retryAfter } });
  }
}
