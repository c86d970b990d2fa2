import type { Lane, Log } from '@sluice/shared';
import { attempt, type RunnableRows } from '../process/attempt.js';
import type { Lease, Pool } from '../process/pool.js';
import { type MicroBatchLimits, nextLane, nextMicroBatch, type Sized } from './batcher.js';
import type { Throughput } from './throughput.js';

/**
 * How many failed runs alone give an item an error. Items of the bulk lane have long deadlines. In the interactive lane a
 * second one would make the other items of the micro-batch miss their deadline, since each crash costs a load.
 */
const MAX_FAILURES_ALONE: Readonly<Record<Lane, number>> = { interactive: 1, bulk: 3 };

/** Rows of an item that wait for their first run. */
export type PendingRows = RunnableRows &
  Sized & {
    /** How many parts of the same item precede these rows. */
    part: number;
  };

interface PendingOptions {
  pool: Pool;
  limits: MicroBatchLimits;
  /** The budget of a run in a lane, in milliseconds, by its number of rows and the tokens of the longest one. */
  budgetMs: (lane: Lane, rows: number, tokens: number) => number;
  /** Records each successful run. */
  throughput: Throughput;
  log: Log;
}

/**
 * The pending rows of one model. The next micro-batch is chosen when a model process is free, and not before, so that
 * items that arrive in the meantime can join it.
 */
export class Pending {
  #items: Record<Lane, PendingRows[]> = { interactive: [], bulk: [] };
  /** The number of the micro-batch from which rows are eligible. */
  #turns = new WeakMap<PendingRows, number>();
  #microBatches = 0;
  #running = false;
  /** Micro-batches since the last one of the bulk lane. */
  #sinceBulk = 0;
  #options: PendingOptions;

  constructor(options: PendingOptions) {
    this.#options = options;
  }

  /** Adds rows. Part n of an item is queued n micro-batches later, so that other items run in between. */
  add(lane: Lane, rows: PendingRows): void {
    const turn = this.#microBatches + rows.part;
    this.#turns.set(rows, turn);
    const items = this.#items[lane];
    const before = items.findLastIndex((other) => (this.#turns.get(other) ?? 0) <= turn);
    items.splice(before + 1, 0, rows);
    void this.#runAll();
  }

  /** Runs micro-batches until nothing is pending. */
  async #runAll(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    while (this.#items.interactive.length + this.#items.bulk.length > 0) {
      const lease = await this.#options.pool.acquire({ secondRun: false });
      this.#dropExpired('interactive');
      this.#dropExpired('bulk');
      const { interactive, bulk } = this.#items;
      const lane = nextLane({ interactive: interactive.length, bulk: bulk.length }, this.#sinceBulk);
      const microBatch = nextMicroBatch(this.#items[lane], this.#options.limits);
      if (microBatch === undefined) {
        lease.release();
        break;
      }
      this.#sinceBulk = lane === 'bulk' ? 0 : this.#sinceBulk + 1;
      this.#microBatches++;
      const chosen = new Set(microBatch);
      this.#items[lane] = this.#items[lane].filter((item) => !chosen.has(item));
      void this.#run(lane, microBatch, lease);
    }
    this.#running = false;
  }

  async #run(lane: Lane, items: [PendingRows, ...PendingRows[]], lease: Lease): Promise<void> {
    const { pool, budgetMs, throughput, log } = this.#options;
    const startedMs = performance.now();
    const ran = await attempt(items, lease, {
      pool,
      budgetMs: (rows, tokens) => budgetMs(lane, rows, tokens),
      maxFailuresAlone: MAX_FAILURES_ALONE[lane],
      log,
    });
    if (!ran) return;
    const nowMs = performance.now();
    const rows = items.reduce((sum, item) => sum + item.rows.length, 0);
    throughput.record({ lane, rows, busyMs: nowMs - startedMs, nowMs });
  }

  #dropExpired(lane: Lane): void {
    const expired = new Set(this.#items[lane].filter((item) => item.expired()));
    if (expired.size === 0) return;
    this.#items[lane] = this.#items[lane].filter((item) => !expired.has(item));
    for (const item of expired) item.settle({ kind: 'expired' });
  }
}
