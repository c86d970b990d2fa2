import { randomUUID } from 'node:crypto';
import { COMMAND_TIMEOUT_MS, type Log, type RedisClock } from '@sluice/shared';
import { REFUND_MEMORY_MS, type Refund, type SlidingWindow, type WindowState } from './slidingWindow.js';

/** A refund that Redis has not confirmed. */
interface Unconfirmed {
  limiter: SlidingWindow;
  keyId: string;
  refund: Refund;
  /** On the monotonic clock of this process: it is not retried after this. */
  untilMs: number;
}

const RETRY_EVERY_MS = 500;
const MAX_UNCONFIRMED = 10_000;

/** Returns slots, and retries for up to a minute while Redis does not confirm it. */
export class Refunds {
  #clock: RedisClock;
  #log: Log;
  #unconfirmed: Unconfirmed[] = [];
  #timer: NodeJS.Timeout;

  constructor(clock: RedisClock, log: Log) {
    this.#clock = clock;
    this.#log = log;
    this.#timer = setInterval(() => this.#retry(), RETRY_EVERY_MS);
  }

  /**
   * Returns slots, without waiting for Redis.
   * @param windows as the call that took the slots gave them
   */
  add(limiter: SlidingWindow, keyId: string, windows: readonly WindowState[]): void {
    const untilMs = performance.now() + REFUND_MEMORY_MS - COMMAND_TIMEOUT_MS;
    void this.#send({ limiter, keyId, refund: { id: randomUUID(), windows }, untilMs });
  }

  /** Stops retrying. */
  close(): void {
    clearInterval(this.#timer);
  }

  async #send(unconfirmed: Unconfirmed): Promise<void> {
    const { limiter, keyId, refund } = unconfirmed;
    try {
      await limiter.refund(keyId, refund);
    } catch (err) {
      this.#log.debug({ err, key_id: keyId }, 'Could not return a slot yet');
      if (this.#unconfirmed.length < MAX_UNCONFIRMED) this.#unconfirmed.push(unconfirmed);
    }
  }

  #retry(): void {
    if (this.#clock.away || this.#unconfirmed.length === 0) return;
    const due = this.#unconfirmed.filter(({ untilMs }) => performance.now() < untilMs);
    this.#unconfirmed = [];
    for (const unconfirmed of due) void this.#send(unconfirmed);
  }
}
