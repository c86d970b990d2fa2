import {
  COMMAND_TIMEOUT_MS,
  type KeyRecord,
  type Limit,
  type Log,
  names,
  type RedisClock,
} from '@sluice/shared';
import type { Redis } from 'ioredis';
import { fromRedis, Problem } from '../http/problem.js';
import { rateLimitHeaders, seconds } from './headers.js';
import { Refunds } from './refunds.js';
import { SlidingWindow, tightest, type WindowState } from './slidingWindow.js';

/** A request's slot in the windows of its key. */
export interface Slot {
  /** Free slots in the tightest window. */
  remaining: number;
  windows: readonly WindowState[];
  /** Header fields of the response. */
  headers: Readonly<Record<string, string>>;
  /** Returns the slot, without waiting for Redis; retries for up to a minute. */
  refund(): void;
}

/** The refusal of a request whose key has no free slot. */
export class RateLimited extends Problem {
  constructor(
    readonly windows: readonly WindowState[],
    headers: Readonly<Record<string, string>>,
  ) {
    super('rate_limited', { headers });
  }
}

/** The rate limit of each key, exact across all gateways. */
export class RateLimit {
  #redis: Redis;
  #clock: RedisClock;
  #defaults: readonly Limit[];
  /** One limiter for each set of limits in use. */
  #limiters = new Map<string, SlidingWindow>();
  #refunds: Refunds;

  /** @param defaults for keys without limits of their own */
  constructor(redis: Redis, clock: RedisClock, defaults: readonly Limit[], log: Log) {
    this.#redis = redis;
    this.#clock = clock;
    this.#defaults = defaults;
    this.#refunds = new Refunds(clock, log);
  }

  /**
   * Takes a slot for a request.
   * @throws Problem `rate_limited`, which took nothing, or `unavailable`
   */
  async take(record: KeyRecord): Promise<Slot> {
    const limiter = this.#limiterOf(record);
    const nowMs = this.#clock.now();
    if (nowMs === undefined) throw new Problem('unavailable');
    const { taken, windows } = await fromRedis(
      limiter.take(record.id, { notAfterMs: nowMs + COMMAND_TIMEOUT_MS }),
    );
    const headers = rateLimitHeaders(windows);
    const { remaining, resetMs } = tightest(windows);
    if (!taken) {
      throw new RateLimited(windows, {
        ...headers,
        'Retry-After': String(Math.max(1, seconds(resetMs))),
      });
    }
    return { remaining, windows, headers, refund: () => this.#refunds.add(limiter, record.id, windows) };
  }

  /** The state of a key's windows; takes nothing. @throws Problem `unavailable` */
  look(record: KeyRecord): Promise<readonly WindowState[]> {
    return fromRedis(this.#limiterOf(record).look(record.id));
  }

  /** Stops retrying refunds. */
  close(): void {
    this.#refunds.close();
  }

  #limiterOf({ limits: own }: KeyRecord): SlidingWindow {
    const limits = own.length > 0 ? own : this.#defaults;
    const id = limits.map(({ limit, windowSeconds }) => `${limit}/${windowSeconds}`).join();
    const known = this.#limiters.get(id);
    if (known) return known;
    const limiter = new SlidingWindow(this.#redis, limits, names.limits);
    this.#limiters.set(id, limiter);
    return limiter;
  }
}
