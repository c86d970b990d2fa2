import type { LimitUnit } from '@sluice/contract';
import {
  COMMAND_TIMEOUT_MS,
  type KeyRecord,
  type Limit,
  type Log,
  names,
  type RedisClock,
  unitOf,
} from '@sluice/shared';
import type { Redis } from 'ioredis';
import { fromRedis, Problem } from '../http/problem.js';
import { rateLimitHeaders, seconds } from './headers.js';
import { Refunds } from './refunds.js';
import { type Amounts, SlidingWindow, tightest, type WindowState } from './slidingWindow.js';

/** What a request costs in windows that count texts or tokens. */
type Cost = Readonly<Record<'texts' | 'tokens', number>>;

/** What a request has taken from the windows of its key: one request, and its texts and tokens. */
export interface Slot {
  /** Free slots in the tightest window. */
  readonly remaining: number;
  readonly windows: readonly WindowState[];
  /** Header fields of the response. */
  readonly headers: Readonly<Record<string, string>>;
  /** Whether the key has a window in a unit. */
  counts(unit: LimitUnit): boolean;
  /**
   * Takes what the request costs, in one call, all or none.
   * @throws Problem `rate_limited` or `cost_over_limit`, which took nothing more; `unavailable`
   */
  charge(cost: Cost): Promise<void>;
  /** Returns all that was taken, without waiting for Redis; retries for up to a minute. */
  refund(): void;
}

/** The refusal of a request whose key has no free slot. */
export class RateLimited extends Problem {
  constructor(
    readonly windows: readonly WindowState[],
    /** What the key has used up. */
    override readonly unit: LimitUnit,
    headers: Readonly<Record<string, string>>,
  ) {
    super('rate_limited', { headers });
  }
}

const costIn = (cost: Cost, unit: LimitUnit) => (unit === 'requests' ? 1 : cost[unit]);

/** The rate limit of each key, exact across all gateways. */
export class RateLimit {
  #redis: Redis;
  #clock: RedisClock;
  #defaults: readonly Limit[];
  /** One limiter for each set of limits in use. */
  #limiters = new Map<string, SlidingWindow>();
  #refunds: Refunds;

  /** @param defaults for keys whose record has no limits */
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
    const has = (unit: LimitUnit) => this.#limitsOf(record).some((limit) => unitOf(limit) === unit);
    const calls = [await this.#takeFrom(limiter, record.id, { requests: 1 })];
    const windows = () => calls.at(-1) ?? [];
    return {
      get windows() {
        return windows();
      },
      get remaining() {
        return tightest(windows()).remaining;
      },
      get headers() {
        return rateLimitHeaders(windows());
      },
      counts: has,
      charge: async (cost) => {
        if (!has('texts') && !has('tokens')) return;
        const over = this.#limitsOf(record).find((limit) => limit.limit < costIn(cost, unitOf(limit)));
        if (over)
          throw new Problem('cost_over_limit', {
            detail: `The request costs ${costIn(cost, unitOf(over))} ${over.unit}, more than the limit of ${over.limit} in ${over.windowSeconds} s. Send fewer inputs in one request`,
          });
        calls.push(await this.#takeFrom(limiter, record.id, cost));
      },
      refund: () => {
        for (const taken of calls) this.#refunds.add(limiter, record.id, taken);
      },
    };
  }

  /** @throws Problem `rate_limited` or `unavailable` */
  async #takeFrom(limiter: SlidingWindow, keyId: string, amounts: Amounts): Promise<readonly WindowState[]> {
    const nowMs = this.#clock.now();
    if (nowMs === undefined) throw new Problem('unavailable');
    const { taken, windows } = await fromRedis(
      limiter.take(keyId, { amounts, notAfterMs: nowMs + COMMAND_TIMEOUT_MS }),
    );
    if (taken) return windows;
    const short = windows.filter((window) => window.remaining < (amounts[unitOf(window)] ?? 0));
    const resetMs = Math.max(...short.map((window) => window.resetMs));
    const [tight] = short.sort((a, b) => b.resetMs - a.resetMs);
    throw new RateLimited(windows, tight ? unitOf(tight) : 'requests', {
      ...rateLimitHeaders(windows),
      'Retry-After': String(Math.max(1, seconds(resetMs))),
    });
  }

  /** The state of a key's windows; takes nothing. @throws Problem `unavailable` */
  look(record: KeyRecord): Promise<readonly WindowState[]> {
    return fromRedis(this.#limiterOf(record).look(record.id));
  }

  /** Stops retrying refunds. */
  close(): void {
    this.#refunds.close();
  }

  #limitsOf({ limits: own }: KeyRecord): readonly Limit[] {
    return own.length > 0 ? own : this.#defaults;
  }

  #limiterOf(record: KeyRecord): SlidingWindow {
    const limits = this.#limitsOf(record);
    const id = limits.map((limit) => `${limit.limit}/${limit.windowSeconds}/${unitOf(limit)}`).join();
    const known = this.#limiters.get(id);
    if (known) return known;
    const limiter = new SlidingWindow(this.#redis, limits, names.limits);
    this.#limiters.set(id, limiter);
    return limiter;
  }
}
