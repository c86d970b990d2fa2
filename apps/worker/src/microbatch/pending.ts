import type { Lane, Log } from '@sluice/shared';
import type { DoneRun } from '../metrics.js';
import { attempt, type RunnableRows } from '../process/attempt.js';
import type { Lease, Pool } from '../process/pool.js';
import { type MicroBatchLimits, nextLane, nextMicroBatch, type Sized } from './batcher.js';
import type { Throughput } from './throughput.js';

/**
 * How many failed runs alone give an item an error. Items of the bulk lane have long deadlines. In the interactive lane a
 * second one would make the other items of the micro-batch miss their deadline, since each crash costs a load.
 */
const MAX_FAILURES_ALONE: Readonly<Record<Lane, number>> = { interactive: 1, bulk: 3 };

/** A micro-batch of the bulk lane is sent ahead only if no interactive item has arrived for this long, in milliseconds. */
const QUIET_MS = 1_000;

/** Rows of an item that wait for their first run. */
export type PendingRows = RunnableRows &
  Sized & {
    /** How many parts of the same item precede these rows. */
    part: number;
    /** Equal for items with the same rows and run parameters, whose results are the same. */
    contents: string;
  };

type MicroBatch = [PendingRows, ...PendingRows[]];

/** The first of each set of equal items, in their order. */
function firstOfEach(items: readonly PendingRows[]): PendingRows[] {
  const seen = new Set<string>();
  return items.filter(({ contents }) => !seen.has(contents) && seen.add(contents));
}

interface PendingOptions {
  pool: Pool;
  limits: MicroBatchLimits;
  /** The budget of a run in a lane, in milliseconds, by its number of rows and the tokens of the longest one. */
  budgetMs: (lane: Lane, rows: number, tokens: number) => number;
  /** Records each successful run. */
  throughput: Throughput;
  /** Called with each successful run of a micro-batch. */
  onRun: (run: DoneRun) => void;
  log: Log;
}

/**
 * The pending rows of one model. The next micro-batch is chosen when a model process is free, so that items that arrive in
 * the meantime can join it. Under load it is chosen earlier, while the process still runs the previous one.
 */
export class Pending {
  #items: Record<Lane, PendingRows[]> = { interactive: [], bulk: [] };
  /** The number of the micro-batch from which rows are eligible. */
  #turns = new WeakMap<PendingRows, number>();
  #microBatches = 0;
  #running = false;
  /** Micro-batches since the last one of the bulk lane. */
  #sinceBulk = 0;
  /** When the latest interactive item arrived. */
  #interactiveMs = Number.NEGATIVE_INFINITY;
  #options: PendingOptions;

  constructor(options: PendingOptions) {
    this.#options = options;
  }

  /** Adds rows. Part n of an item is queued n micro-batches later, so that other items run in between. */
  add(lane: Lane, rows: PendingRows): void {
    if (lane === 'interactive') this.#interactiveMs = performance.now();
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
      const lease = await this.#options.pool.acquire(() => this.#hasWorkAhead());
      this.#dropExpired('interactive');
      this.#dropExpired('bulk');
      const { interactive, bulk } = this.#items;
      const lane = nextLane({ interactive: interactive.length, bulk: bulk.length }, this.#sinceBulk);
      const microBatch = nextMicroBatch(firstOfEach(this.#items[lane]), this.#options.limits);
      if (microBatch === undefined) {
        lease.release();
        break;
      }
      this.#sinceBulk = lane === 'bulk' ? 0 : this.#sinceBulk + 1;
      this.#microBatches++;
      void this.#run(lane, this.#take(lane, microBatch), lease);
    }
    this.#running = false;
  }

  /**
   * Takes the chosen items out of the pending ones, and the items equal to each. An equal item gets the same results without a
   * run. If the chosen item ends without results, its equal items become pending again, because each has its own deadline,
   * retries and error.
   */
  #take(lane: Lane, [first, ...others]: MicroBatch): MicroBatch {
    const chosen = new Map(
      [first, ...others].map((item) => [item.contents, { item, equal: [] as PendingRows[] }]),
    );
    this.#items[lane] = this.#items[lane].filter((item) => {
      const found = chosen.get(item.contents);
      if (found && found.item !== item) found.equal.push(item);
      return found === undefined;
    });
    const withEqual = (item: PendingRows): PendingRows => {
      const equal = chosen.get(item.contents)?.equal ?? [];
      if (equal.length === 0) return item;
      return {
        ...item,
        spans: [item, ...equal].flatMap(({ spans }) => spans),
        settle: (settlement) => {
          item.settle(settlement);
          for (const other of equal) {
            if (settlement.kind === 'ran') other.settle(settlement);
            // They run together, and if need be alone, but not one after the other.
            else this.add(lane, { ...other, contents: `${other.id} ${other.part}` });
          }
        },
      };
    };
    return [withEqual(first), ...others.map(withEqual)];
  }

  async #run(lane: Lane, items: MicroBatch, lease: Lease): Promise<void> {
    const { pool, budgetMs, throughput, onRun, log } = this.#options;
    const ran = await attempt(items, lease, {
      pool,
      budgetMs: (rows, tokens) => budgetMs(lane, rows, tokens),
      maxFailuresAlone: MAX_FAILURES_ALONE[lane],
      log,
    });
    if (ran === 'not_started') {
      this.#items[lane].unshift(...items);
      void this.#runAll();
    } else if (ran !== 'failed') {
      const { results, ms } = ran;
      const rows = results.length;
      throughput.record({ lane, rows, busyMs: ms, nowMs: performance.now() });
      const tokens = results.map((result) => result.tokens);
      const sum = tokens.reduce((one, other) => one + other, 0);
      onRun({ lane, rows, tokens: sum, longest: Math.max(...tokens), ms });
    }
  }

  /**
   * Whether the next micro-batch may be chosen while the present one runs, so that the process does not wait for it: only if
   * more rows are pending than a micro-batch may have, since items that arrive later cannot join it. The bulk lane also
   * waits until no interactive item has arrived for {@link QUIET_MS}, because one that arrives would have to wait for the run
   * that was sent ahead.
   */
  #hasWorkAhead(): boolean {
    const isEnough = (items: readonly PendingRows[]) =>
      firstOfEach(items).reduce((sum, { rows }) => sum + rows.length, 0) > this.#options.limits.rows;
    if (isEnough(this.#items.interactive)) return true;
    return performance.now() - this.#interactiveMs > QUIET_MS && isEnough(this.#items.bulk);
  }

  #dropExpired(lane: Lane): void {
    const expired = new Set(this.#items[lane].filter((item) => item.expired()));
    if (expired.size === 0) return;
    this.#items[lane] = this.#items[lane].filter((item) => !expired.has(item));
    for (const item of expired) item.settle({ kind: 'expired' });
  }
}
