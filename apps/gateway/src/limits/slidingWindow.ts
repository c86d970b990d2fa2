import { readFileSync } from 'node:fs';
import type { Limit } from '@sluice/shared';
import type { Redis, Result } from 'ioredis';
import { RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';

// Two folders up from src/limits as well as from dist/limits.
const lua = readFileSync(new URL('../../src/limits/sliding_window.lua', import.meta.url), 'utf8');

type ScriptResult = (number | string)[];

declare module 'ioredis' {
  interface RedisCommander<Context> {
    slidingWindow(keyCount: number, ...keysAndArgs: (string | number)[]): Result<ScriptResult, Context>;
  }
}

/** Requests of one tick share an entry: at most so many entries a window, whatever its limit. */
const TICKS_PER_WINDOW = 10_000;

/** Length of a tick: a place comes free at most so much late, in milliseconds. */
export function tickMs(windowSeconds: number): number {
  return Math.max(1, (windowSeconds * 1000) / TICKS_PER_WINDOW);
}

/** How one window of a caller stands. */
export interface WindowState extends Limit {
  /** Places left. */
  remaining: number;
  /** Milliseconds until the next place comes free; 0 when all are free. */
  resetMs: number;
  /** Number of the tick that the request was counted in, for {@link SlidingWindow.refund}. */
  tick: number;
}

/** The answer of the limiter, with each window beside the library's summary of the tightest. */
export class SlidingWindowRes extends RateLimiterRes {
  constructor(
    readonly windows: readonly WindowState[],
    remaining: number,
    resetMs: number,
    consumed: number,
  ) {
    super(remaining, resetMs, consumed, consumed === 1);
  }
}

/** The window that binds first: fewest places left, then the longest wait. */
export function tightest(windows: readonly WindowState[]): WindowState {
  const [first, ...others] = windows;
  if (first === undefined) throw new RangeError('A caller has at least one window');
  return others.reduce((tight, window) => {
    if (window.remaining !== tight.remaining) return window.remaining < tight.remaining ? window : tight;
    return window.resetMs > tight.resetMs ? window : tight;
  }, first);
}

/** A place to give back. */
export interface Refund {
  /** Names it, so that it is given back once however often that is tried. */
  id: string;
  /** The windows as they stood when it was taken. */
  windows: readonly WindowState[];
}

/** A refund may be tried again for so long, in milliseconds: the script remembers it for this time. */
export const REFUND_MEMORY_MS = 60_000;

export interface CallOptions {
  /** Milliseconds since the epoch instead of Redis's clock: for tests. */
  nowMs?: number;
  /** Redis's time after which the call writes nothing, because whoever asked has gone. */
  notAfterMs?: number;
  /** What to give back. */
  refund?: Refund;
}

/**
 * An exact sliding window, on the seam that rate-limiter-flexible has for stores: never more than `limit` requests
 * in any half-open stretch (now − window, now], whichever process asks, for several windows at once. One call of
 * one script on Redis's own clock.
 *
 * `consume` resolves or rejects with a {@link SlidingWindowRes}, and rejects with an Error when Redis fails. A
 * refusal takes nothing.
 */
export class SlidingWindow extends RateLimiterRedis {
  readonly #redis: Redis;
  readonly #limits: readonly Limit[];

  /**
   * @param limits at least one
   * @param keyPrefix of the keys in Redis
   */
  constructor(redis: Redis, limits: readonly Limit[], keyPrefix: string) {
    const points = Math.min(...limits.map(({ limit }) => limit));
    super({ storeClient: redis, keyPrefix, points, duration: 1 });
    this.#redis = redis;
    this.#limits = limits;
    redis.defineCommand('slidingWindow', { lua });
  }

  /**
   * Gives back the one place that an earlier `consume` took: exactly its entry, in each window. An entry that is
   * gone is left gone, and a refund that was made is not made again within {@link REFUND_MEMORY_MS}.
   */
  async refund(key: string, refund: Refund, options: Pick<CallOptions, 'nowMs'> = {}): Promise<void> {
    await this.reward(key, 1, { ...options, refund });
  }

  /** The library's hook to take (or, with negative points, give back) places. */
  async _upsert(
    rlKey: string,
    points: number,
    _msDuration: number,
    _forceExpire: boolean,
    options: CallOptions = {},
  ): Promise<ScriptResult> {
    return this.#call(rlKey, points, options);
  }

  /** The library's hook to look. */
  async _get(rlKey: string, options: CallOptions = {}): Promise<ScriptResult> {
    return this.#call(rlKey, 0, options);
  }

  #call(rlKey: string, points: number, { nowMs, notAfterMs, refund }: CallOptions): Promise<ScriptResult> {
    const keys = this.#limits.map(({ windowSeconds }) => `${rlKey}:${windowSeconds}`);
    if (refund) keys.push(`${this.keyPrefix}:refund:${refund.id}`);
    const windows = this.#limits.flatMap(({ limit, windowSeconds }, i) => [
      limit,
      windowSeconds * 1000,
      tickMs(windowSeconds),
      refund?.windows[i]?.tick ?? '',
    ]);
    return this.#redis.slidingWindow(keys.length, ...keys, nowMs ?? '', notAfterMs ?? '', points, ...windows);
  }

  /** The library's hook to read the script's answer. */
  _getRateLimiterRes(_rlKey: string, _changedPoints: number, result: ScriptResult): SlidingWindowRes {
    const windows = this.#limits.map((limit, i) => ({
      ...limit,
      remaining: Math.max(0, limit.limit - Number(result[1 + i * 3])),
      resetMs: Number(result[2 + i * 3]),
      tick: Number(result[3 + i * 3]),
    }));
    const { remaining, resetMs } = tightest(windows);
    // The library refuses when more than `points` are consumed.
    const consumed = result[0] === 1 ? Math.max(0, this.points - remaining) : this.points + 1;
    return new SlidingWindowRes(windows, remaining, resetMs, consumed);
  }
}
