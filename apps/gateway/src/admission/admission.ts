import { type Heartbeat, type Log, liveWorkers, type RedisClock, shareWaiting } from '@sluice/shared';
import type { Redis } from 'ioredis';
import { fromRedis, Problem } from '../errors/problem.js';

const LOOK_EVERY_MS = 250;
/**
 * A text is let in when its answer is expected within this part of its time. The rest is for what the prediction does
 * not see: runs take turns with batches, and the rate is that of lately.
 */
const USABLE = 0.8;

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
 * for one more, so there is nothing to swing: under steady overload as many are let in as are answered.
 */
export class Admission {
  #options: AdmissionOptions;
  #workers: Heartbeat[] = [];
  /** Texts that wait at other gateways. */
  #elsewhere = 0;
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
   * @throws Problem `overloaded`
   */
  admit(timeoutMs: number): void {
    let textsPerSecond = 0;
    for (const worker of this.#serving) {
      // One of an earlier version does not tell.
      if (worker.textsPerSecond === undefined) return;
      textsPerSecond += worker.textsPerSecond;
    }
    const waitMs = (1000 * (this.#elsewhere + this.#options.waiting())) / textsPerSecond;
    const tooLateMs = waitMs - USABLE * timeoutMs;
    if (tooLateMs <= 0) return;
    throw new Problem('overloaded', { headers: { 'Retry-After': String(Math.ceil(tooLateMs / 1000)) } });
  }

  get #serving(): Heartbeat[] {
    return this.#workers.filter(({ model }) => model === this.#options.model);
  }

  close(): void {
    clearInterval(this.#timer);
  }

  async #look(): Promise<void> {
    const { redis, clock, gatewayId, model, waiting } = this.#options;
    const nowMs = clock.now();
    if (clock.away || nowMs === undefined) return;
    await this.workers();
    this.#elsewhere = await shareWaiting(redis, model, { gatewayId, texts: waiting(), nowMs });
  }
}
