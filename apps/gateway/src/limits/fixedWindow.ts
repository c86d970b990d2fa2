import { isStorageFull } from '@sluice/shared';
import type { Redis } from 'ioredis';
import { RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';
import { fromRedis } from '../http/problem.js';

interface FixedWindowOptions {
  /** Prefix of the counters in Redis. */
  prefix: string;
  /** Maximum in a window of a minute. */
  perMinute: number;
  /** Whether this process remembers who is over the limit, and then does not ask Redis. */
  remember: boolean;
}

/**
 * Counts events in fixed windows of a minute, for limits that protect Sluice itself: around the boundary of a window twice
 * as many may pass. While Redis is full it counts nothing, and lets all pass.
 */
export class FixedWindow {
  #limiter: RateLimiterRedis;

  constructor(redis: Redis, { prefix, perMinute, remember }: FixedWindowOptions) {
    this.#limiter = new RateLimiterRedis({
      storeClient: redis,
      keyPrefix: prefix,
      points: perMinute,
      duration: 60,
      ...(remember ? { inMemoryBlockOnConsumed: perMinute + 1 } : {}),
    });
  }

  /**
   * Counts an event.
   * @returns undefined within the limit; over it, the value for `Retry-After`: whole seconds until the window ends
   * @throws Problem `unavailable`
   */
  async count(name: string): Promise<string | undefined> {
    const refusal = await fromRedis(
      this.#limiter.consume(name).then(
        () => undefined,
        (reason: unknown) => {
          if (reason instanceof RateLimiterRes) return reason;
          if (isStorageFull(reason)) return undefined;
          throw reason;
        },
      ),
    );
    return refusal && String(Math.max(1, Math.ceil(refusal.msBeforeNext / 1000)));
  }
}
