import { readFileSync } from 'node:fs';
import type { LimitUnit } from '@sluice/contract';
import { type Limit, unitOf } from '@sluice/shared';
import type { Redis, Result } from 'ioredis';
import * as z from 'zod';

// The script stays in src/: two folders up from src/limits and from dist/limits alike.
const lua = readFileSync(new URL('../../src/limits/slidingWindow.lua', import.meta.url), 'utf8');

declare module 'ioredis' {
  interface RedisCommander<Context> {
    slidingWindow(keyCount: number, ...keysAndArgs: (string | number)[]): Result<unknown, Context>;
  }
}

/** Requests of one tick share an entry, so a window has at most this many entries, whatever its limit. */
const TICKS_PER_WINDOW = 10_000;

/** Length of a tick in milliseconds. A slot becomes free at most this much late. */
export function tickMs(windowSeconds: number): number {
  return Math.max(1, (windowSeconds * 1000) / TICKS_PER_WINDOW);
}

/** The state of one window of a key. */
export interface WindowState extends Limit {
  /** Free slots. */
  remaining: number;
  /** Milliseconds until the next slot becomes free; 0 when all are free. */
  resetMs: number;
  /** Slots that the call took, for {@link SlidingWindow.refund}. */
  taken: number;
  /** Number of the tick in which they were counted, for {@link SlidingWindow.refund}. */
  tick: number;
}

/** How many slots a call takes in the windows of each unit. */
export type Amounts = Partial<Record<LimitUnit, number>>;

const ONE_REQUEST: Amounts = { requests: 1 };

/** The window that binds first: the fewest free slots, then the longest wait. */
export function tightest(windows: readonly WindowState[]): WindowState {
  const [first, ...others] = windows;
  if (first === undefined) throw new RangeError('A key has at least one window');
  return others.reduce((tight, window) => {
    if (window.remaining !== tight.remaining) return window.remaining < tight.remaining ? window : tight;
    return window.resetMs > tight.resetMs ? window : tight;
  }, first);
}

/** Slots to return. */
export interface Refund {
  /** Identifies the refund, so that it is made once even if it is tried several times. */
  id: string;
  /** The windows as the call that took them gave them. */
  windows: readonly WindowState[];
}

/** A refund may be retried for this long, in milliseconds: the script remembers its id for this time. */
export const REFUND_MEMORY_MS = 60_000;

interface TimeOptions {
  /** Milliseconds since the epoch, instead of Redis's clock; for tests. */
  nowMs?: number;
}

/** `1` or `0` for taken or refused; then for each window: slots taken, ms until the next is free, number of the tick. */
const replySchema = z.tuple([z.union([z.literal(0), z.literal(1)])], z.coerce.number());

/**
 * Exact sliding windows of a key: never more than `limit` slots in any half-open interval (now − window, now], whichever
 * process asks, for several windows at once. A slot is a request, or in windows of other units a text or a token. Each
 * method is one call of one script on Redis's clock.
 */
export class SlidingWindow {
  readonly #redis: Redis;
  readonly #limits: readonly Limit[];
  readonly #prefix: string;

  /**
   * @param limits at least one
   * @param prefix of the keys in Redis
   */
  constructor(redis: Redis, limits: readonly Limit[], prefix: string) {
    this.#redis = redis;
    this.#limits = limits;
    this.#prefix = prefix;
    redis.defineCommand('slidingWindow', { lua });
  }

  /**
   * Takes slots in the windows: all of them, or none if one of the windows has too few.
   * @param amounts slots by the unit of the windows; one request if not given
   * @param notAfterMs Redis's time after which nothing is written, because the request has been answered by then
   * @throws Error when Redis fails, or the call runs too late
   */
  async take(
    keyId: string,
    {
      nowMs,
      notAfterMs,
      amounts = ONE_REQUEST,
    }: TimeOptions & { notAfterMs?: number; amounts?: Amounts } = {},
  ): Promise<{ taken: boolean; windows: readonly WindowState[] }> {
    return this.#call(keyId, { amounts, nowMs, notAfterMs });
  }

  /** The state of the windows; takes nothing. @throws what the Redis connection throws */
  async look(keyId: string, { nowMs }: TimeOptions = {}): Promise<readonly WindowState[]> {
    return (await this.#call(keyId, { amounts: {}, nowMs })).windows;
  }

  /**
   * Returns the slots that an earlier `take` took, in each window those of its entry. It does nothing for an entry that has
   * left the window, or if the refund was already made within {@link REFUND_MEMORY_MS}.
   * @throws what the Redis connection throws
   */
  async refund(keyId: string, refund: Refund, { nowMs }: TimeOptions = {}): Promise<void> {
    await this.#call(keyId, { amounts: {}, nowMs, refund });
  }

  async #call(
    keyId: string,
    {
      amounts,
      nowMs = '',
      notAfterMs = '',
      refund,
    }: {
      amounts: Amounts;
      nowMs?: number | '' | undefined;
      notAfterMs?: number | '' | undefined;
      refund?: Refund;
    },
  ) {
    const keys = this.#limits.map((limit) => {
      const unit = unitOf(limit);
      return `${this.#prefix}:${keyId}:${limit.windowSeconds}${unit === 'requests' ? '' : `:${unit}`}`;
    });
    const slots = this.#limits.map((limit, i) => refund?.windows[i]?.taken ?? amounts[unitOf(limit)] ?? 0);
    if (refund) keys.push(`${this.#prefix}:refund:${refund.id}`);
    const args = this.#limits.flatMap(({ limit, windowSeconds }, i) => [
      limit,
      windowSeconds * 1000,
      tickMs(windowSeconds),
      slots[i] ?? 0,
      refund?.windows[i]?.tick ?? '',
    ]);
    const reply = await this.#redis.slidingWindow(
      keys.length,
      ...keys,
      nowMs,
      notAfterMs,
      refund ? 'refund' : '',
      ...args,
    );
    const [taken, ...state] = replySchema.parse(reply);
    const windows = this.#limits.map((limit, i) => ({
      ...limit,
      remaining: Math.max(0, limit.limit - (state[i * 3] ?? 0)),
      resetMs: state[1 + i * 3] ?? 0,
      taken: taken === 1 && !refund ? (slots[i] ?? 0) : 0,
      tick: state[2 + i * 3] ?? 0,
    }));
    return { taken: taken === 1, windows };
  }
}
