import type { Log } from '@sluice/shared';
import { type Attemptable, attempt } from '../model/attempt.js';
import type { Pool } from '../model/pool.js';
import { type MicroBatchLimits, nextMicroBatch, type Sized } from './batcher.js';

/** A text that waits for its first run. */
export type Parked = Attemptable & Sized;

/**
 * Where texts wait in the worker. Whenever a model process is free, the batcher draws from here, and not before:
 * what comes in meanwhile may go along.
 */
export class Lot {
  #waiting: Parked[] = [];
  #drawing = false;
  #pool: Pool;
  #limits: MicroBatchLimits;
  #stallMs: number;
  #log: Log;

  constructor(pool: Pool, limits: MicroBatchLimits, stallMs: number, log: Log) {
    this.#pool = pool;
    this.#limits = limits;
    this.#stallMs = stallMs;
    this.#log = log;
  }

  park(item: Parked): void {
    this.#waiting.push(item);
    void this.#draw();
  }

  async #draw(): Promise<void> {
    if (this.#drawing) return;
    this.#drawing = true;
    while (this.#waiting.length > 0) {
      const lease = await this.#pool.acquire({ secondRun: false });
      this.#dropExpired();
      const batch = nextMicroBatch(this.#waiting, this.#limits);
      if (batch.length === 0) {
        lease.release();
        break;
      }
      const drawn = new Set(batch);
      this.#waiting = this.#waiting.filter((item) => !drawn.has(item));
      void attempt(batch, lease, this.#pool, this.#stallMs, this.#log);
    }
    this.#drawing = false;
  }

  #dropExpired(): void {
    const expired = this.#waiting.filter((item) => item.expired());
    if (expired.length === 0) return;
    this.#waiting = this.#waiting.filter((item) => !expired.includes(item));
    for (const item of expired) item.settle({ kind: 'expired' });
  }
}
