import {
  type Elsewhere,
  type Heartbeat,
  type Log,
  liveWorkers,
  type RedisClock,
  shareWaiting,
  withdrawWaiting,
} from '@sluice/shared';
import type { Redis } from 'ioredis';
import { fromRedis, Problem } from '../errors/problem.js';

const LOOK_EVERY_MS = 250;
/**
 * A text is let in when its answer is expected within this part of its time. The rest is for what the prediction does
 * not see: runs take turns with batches, and the rate is that of lately.
 */
const USABLE = 0.8;
/** What goes by on the way here and there under load, in milliseconds; of a short time a quarter at most. */
const WAY_MS = 100;
/** Up to this part a gateway is let have its share, when another has taken all. */
const USABLE_FOR_SHARES = 0.95;

interface AdmissionOptions {
  redis: Redis;
  clock: RedisClock;
  /** Names this gateway to the others. */
  gatewayId: string;
  model: string;
  /** How many texts wait here for their answers. */
  waiting: () => number;
  log: Log;
}

/**
 * Lets work in only where it can be done in time: refuses at once when no live worker serves the model, or when what
 * waits already, at the rate at which the workers answer, would outlast the deadline.
 *
 * What waits here is counted, what waits at other gateways heard of every {@link LOOK_EVERY_MS}. Each answer makes room
 * for one more, so there is nothing to swing: under steady overload as many are let in as are answered. A gateway that
 * comes late gets its share of the room, and the one that had it all gives way; until they have heard of each other, a
 * burst at several gateways may be let in by each.
 */
export class Admission {
  #options: AdmissionOptions;
  #workers: Heartbeat[] = [];
  #elsewhere: Elsewhere = { gateways: 0, texts: 0 };
  #looking = false;
  #timer: NodeJS.Timeout;

  constructor(options: AdmissionOptions) {
    this.#options = options;
    this.#timer = setInterval(() => {
      this.#look().catch((err: unknown) => options.log.debug({ err }, 'The fleet could not be read'));
    }, LOOK_EVERY_MS);
  }

  /** The live workers, as they were seen lately. */
  get fleet(): readonly Heartbeat[] {
    return this.#workers;
  }

  /** The live workers, as Redis tells now. */
  async workers(): Promise<readonly Heartbeat[]> {
    this.#workers = await liveWorkers(this.#options.redis);
    return this.#workers;
  }

  /**
   * Passes when a live worker serves the model. What was seen lately is enough to let in, not to refuse.
   * @throws Problem `no_worker` or `unavailable`
   */
  async ensureWorker(): Promise<void> {
    if (this.#serving.length > 0) return;
    await fromRedis(this.workers());
    if (this.#serving.length === 0) throw new Problem('no_worker');
  }

  /**
   * Passes when an answer can be expected in time. Not to be awaited: whoever passes has to wait from this moment on, or
   * those who come at the same time would not be counted.
   * @param timeoutMs from now to the deadline
   * @throws Problem `overloaded`, or `no_worker` when the last has gone meanwhile
   */
  admit(timeoutMs: number): void {
    const serving = this.#serving;
    if (serving.length === 0) throw new Problem('no_worker');
    let textsPerSecond = 0;
    for (const worker of serving) {
      // One of an earlier version does not tell.
      if (worker.textsPerSecond === undefined) return;
      textsPerSecond += worker.textsPerSecond;
    }
    const waiting = this.#options.waiting();
    const waitMs = (texts: number) => (1000 * texts) / textsPerSecond;
    const totalMs = waitMs(waiting + this.#elsewhere.texts);
    const wayMs = Math.min(WAY_MS, timeoutMs / 4);
    const usableMs = USABLE * timeoutMs - wayMs;
    if (totalMs <= usableMs) return;
    const hasShare = waitMs(waiting) > usableMs / (1 + this.#elsewhere.gateways);
    if (!hasShare && totalMs <= USABLE_FOR_SHARES * timeoutMs - wayMs) return;
    const retryAfterSeconds = Math.ceil((totalMs - usableMs) / 1000);
    throw new Problem('overloaded', { headers: { 'Retry-After': String(retryAfterSeconds) } });
  }

  get #serving(): Heartbeat[] {
    return this.#workers.filter(({ model }) => model === this.#options.model);
  }

  /** Says that nothing waits here any more, if Redis hears it; else that goes by its time. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    const { redis, model, gatewayId, log } = this.#options;
    await withdrawWaiting(redis, model, gatewayId).catch((err: unknown) =>
      log.debug({ err }, 'What waits here was not taken back'),
    );
  }

  async #look(): Promise<void> {
    const { redis, clock, gatewayId, model, waiting } = this.#options;
    const nowMs = clock.now();
    if (this.#looking || clock.away || nowMs === undefined) return;
    this.#looking = true;
    try {
      await this.workers();
      this.#elsewhere = await shareWaiting(redis, model, { gatewayId, texts: waiting(), nowMs });
    } finally {
      this.#looking = false;
    }
  }
}
