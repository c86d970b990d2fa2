import { randomUUID } from 'node:crypto';
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
import {
  REFUND_MEMORY_MS,
  type Refund,
  SlidingWindow,
  SlidingWindowRes,
  tightest,
  type WindowState,
} from './slidingWindow.js';

/** A request's place in the windows of its key. */
export interface Place {
  windows: readonly WindowState[];
  /** Places left in the tightest window. */
  remaining: number;
  /** The header fields that tell the caller (draft-ietf-httpapi-ratelimit-headers). */
  headers: Readonly<Record<string, string>>;
  /** Gives the place back, without waiting for Redis; tries for up to a minute. */
  refund(): void;
}

/** A refund that Redis has not confirmed. */
interface Owed {
  limiter: SlidingWindow;
  keyId: string;
  refund: Refund;
  /** On this process's monotonic clock: later than this it is not tried again. */
  untilMs: number;
}

const RETRY_EVERY_MS = 500;
const MAX_OWED = 10_000;

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
  #owed: Owed[] = [];
  #timer: NodeJS.Timeout;

  /** @param defaults for keys without limits of their own */
  constructor(redis: Redis, clock: RedisClock, defaults: readonly Limit[], log: Log) {
    this.#redis = redis;
    this.#clock = clock;
    this.#defaults = defaults;
    this.#log = log;
    this.#timer = setInterval(() => this.#retry(), RETRY_EVERY_MS);
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
        const untilMs = performance.now() + REFUND_MEMORY_MS - COMMAND_TIMEOUT_MS;
        void this.#giveBack({ limiter, keyId: record.id, refund: { id: randomUUID(), windows }, untilMs });
      },
    };
  }

  /** Stops trying to give back what is still owed. */
  close(): void {
    clearInterval(this.#timer);
  }

  async #giveBack(owed: Owed): Promise<void> {
    try {
      await owed.limiter.refund(owed.keyId, owed.refund);
    } catch (err) {
      this.#log.debug({ err, key_id: owed.keyId }, 'A place could not be given back yet');
      if (this.#owed.length < MAX_OWED) this.#owed.push(owed);
    }
  }

  #retry(): void {
    if (this.#clock.away || this.#owed.length === 0) return;
    const due = this.#owed.filter(({ untilMs }) => performance.now() < untilMs);
    this.#owed = [];
    for (const owed of due) void this.#giveBack(owed);
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
