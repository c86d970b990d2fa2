import type { Lane, Log } from '@sluice/shared';
import { type Attemptable, attempt } from '../model/attempt.js';
import type { Lease, Pool } from '../model/pool.js';
import { type MicroBatchLimits, nextLane, nextMicroBatch, type Sized } from './batcher.js';
import type { Throughput } from './throughput.js';

/** A text that waits for its first run. */
export type Parked = Attemptable & Sized;

interface LotOptions {
  pool: Pool;
  limits: MicroBatchLimits;
  /** Budget of a run, in milliseconds. */
  stallMs: number;
  /** Is told of each run of interactive texts. */
  throughput: Throughput;
  log: Log;
}

/**
 * Where texts wait in the worker. Whenever a model process is free, the batcher draws from here, and not before:
 * what comes in meanwhile may go along.
 */
export class Lot {
  #waiting: Record<Lane, Parked[]> = { interactive: [], bulk: [] };
  #drawing = false;
  #sinceBulk = 0;
  #pool: Pool;
  #limits: MicroBatchLimits;
  #stallMs: number;
  #throughput: Throughput;
  #log: Log;

  constructor({ pool, limits, stallMs, throughput, log }: LotOptions) {
    this.#pool = pool;
    this.#limits = limits;
    this.#stallMs = stallMs;
    this.#throughput = throughput;
    this.#log = log;
  }

  park(lane: Lane, item: Parked): void {
    this.#waiting[lane].push(item);
    void this.#draw();
  }

  async #draw(): Promise<void> {
    if (this.#drawing) return;
    this.#drawing = true;
    while (this.#waiting.interactive.length + this.#waiting.bulk.length > 0) {
      const lease = await this.#pool.acquire({ secondRun: false });
      this.#dropExpired('interactive');
      this.#dropExpired('bulk');
      const { interactive, bulk } = this.#waiting;
      const lane = nextLane({ interactive: interactive.length, bulk: bulk.length }, this.#sinceBulk);
      const batch = nextMicroBatch(this.#waiting[lane], this.#limits);
      if (batch.length === 0) {
        lease.release();
        break;
      }
      this.#sinceBulk = lane === 'bulk' ? 0 : this.#sinceBulk + 1;
      const drawn = new Set(batch);
      this.#waiting[lane] = this.#waiting[lane].filter((item) => !drawn.has(item));
      void this.#run(lane, batch, lease);
    }
    this.#drawing = false;
  }

  async #run(lane: Lane, batch: readonly Parked[], lease: Lease): Promise<void> {
    const startedMs = performance.now();
    const ran = await attempt(batch, lease, this.#pool, this.#stallMs, this.#log);
    // A batch may hold longer texts, and a text that hangs says nothing of those to come.
    if (!ran || lane !== 'interactive') return;
    const nowMs = performance.now();
    this.#throughput.note({ texts: batch.length, busyMs: nowMs - startedMs, nowMs });
  }

  #dropExpired(lane: Lane): void {
    const expired = new Set(this.#waiting[lane].filter((item) => item.expired()));
    if (expired.size === 0) return;
    this.#waiting[lane] = this.#waiting[lane].filter((item) => !expired.has(item));
    for (const item of expired) item.settle({ kind: 'expired' });
  }
}
