import {
  COMMAND_TIMEOUT_MS,
  type KeyRecord,
  type Limit,
  type Log,
  names,
  type RedisClock,
} from '@sluice/shared';
import type { Redis } from 'ioredis';
import { fromRedis, Problem } from '../errors/problem.js';
import { SlidingWindow, SlidingWindowRes, tightest, type WindowState } from './slidingWindow.js';

/** A request's place in the windows of its key. */
export interface Place {
  windows: readonly WindowState[];
  /** Places left in the tightest window. */
  remaining: number;
  /** The header fields that tell the caller (draft-ietf-httpapi-ratelimit-headers). */
  headers: Readonly<Record<string, string>>;
  /** Gives the place back, without waiting for Redis. */
  refund(): void;
}

const seconds = (ms: number) => Math.ceil(ms / 1000);
/** The first window is the default one; the others are named by their length. */
const policyName = (index: number, windowSeconds: number) =>
  index === 0 ? '"default"' : `"${windowSeconds}s"`;

/** The policies of all windows, and what is left in the tightest. */
export function rateLimitHeaders(windows: readonly WindowState[]): Record<string, string> {
  const tight = tightest(windows);
  const policies = windows.map(
    ({ limit, windowSeconds }, i) => `${policyName(i, windowSeconds)};q=${limit};w=${windowSeconds}`,
  );
  const name = policyName(windows.indexOf(tight), tight.windowSeconds);
  return {
    'RateLimit-Policy': policies.join(', '),
    RateLimit: `${name};r=${tight.remaining};t=${seconds(tight.resetMs)}`,
  };
}

/** The rate limit of each key, exact over all gateways. */
export class RateLimit {
  #redis: Redis;
  #clock: RedisClock;
  #defaults: readonly Limit[];
  #log: Log;
  /** One limiter for each set of limits in use. */
  #limiters = new Map<string, SlidingWindow>();

  /** @param defaults for keys without limits of their own */
  constructor(redis: Redis, clock: RedisClock, defaults: readonly Limit[], log: Log) {
    this.#redis = redis;
    this.#clock = clock;
    this.#defaults = defaults;
    this.#log = log;
  }

  /**
   * Takes a place for a request.
   * @throws Problem `rate_limited`, which took nothing, or `unavailable`
   */
  async take(record: KeyRecord): Promise<Place> {
    const limiter = this.#limiterFor(record);
    const nowMs = this.#clock.now();
    if (nowMs === undefined) throw new Problem('unavailable');
    const { windows, refused } = await fromRedis(
      limiter.consume(record.id, 1, { notAfterMs: nowMs + COMMAND_TIMEOUT_MS }).then(
        (result) => ({ windows: windowsOf(result), refused: false }),
        (refusal: unknown) => ({ windows: windowsOf(refusal), refused: true }),
      ),
    );
    const headers = rateLimitHeaders(windows);
    if (refused) {
      const { resetMs } = tightest(windows);
      throw new Problem('rate_limited', {
        headers: { ...headers, 'Retry-After': String(Math.max(1, seconds(resetMs))) },
      });
    }
    return {
      windows,
      remaining: tightest(windows).remaining,
      headers,
      refund: () => {
        limiter.refund(record.id, windows).catch((err: unknown) => {
          this.#log.debug({ err, key_id: record.id }, 'A place could not be given back');
        });
      },
    };
  }

  /** How the windows of a key stand; takes nothing. */
  async look(record: KeyRecord): Promise<readonly WindowState[]> {
    return windowsOf(await fromRedis(this.#limiterFor(record).get(record.id)));
  }

  #limiterFor({ limits: own }: KeyRecord): SlidingWindow {
    const limits = own.length > 0 ? own : this.#defaults;
    const id = limits.map(({ limit, windowSeconds }) => `${limit}/${windowSeconds}`).join();
    const known = this.#limiters.get(id);
    if (known) return known;
    const made = new SlidingWindow(this.#redis, limits, names.limits);
    this.#limiters.set(id, made);
    return made;
  }
}

function windowsOf(result: unknown): readonly WindowState[] {
  if (result instanceof SlidingWindowRes) return result.windows;
  throw result;
}
