import { type Log, requestIdOf } from '@sluice/shared';
import type { Row } from '@sluice/tasks';
import type { Lease, Pool } from './pool.js';
import type { RowResult, RunRequest } from './protocol.js';
import { RunError } from './supervisor.js';

/** How rows ended: with results, with an error, or dropped before a run because nobody waits for them any more. */
export type Settlement =
  | { kind: 'ran'; results: readonly RowResult[] }
  | { kind: 'timed_out' | 'failed' | 'expired' };

/** Rows of one item that run together. */
export interface RunnableRows {
  /** Id of the item. */
  id: string;
  rows: readonly Row[];
  /** Length of the longest row in tokens. */
  tokens: number;
  parameters: RunRequest['parameters'];
  /** Whether nobody waits for them any more. */
  expired(): boolean;
  /** Receives how they ended. Called once. */
  settle(settlement: Settlement): void;
}

interface AttemptOptions {
  pool: Pool;
  /** The budget of a run in milliseconds, by its number of rows and the tokens of the longest one. */
  budgetMs: (rows: number, tokens: number) => number;
  /**
   * After the first run has failed, an item gets an error when this many runs of it alone have hung or crashed. Processes
   * are also killed from outside, for example when memory is short.
   */
  maxFailuresAlone: number;
  log: Log;
}

/**
 * Runs a micro-batch with equal run parameters: first together; if that fails, the rows of each item alone; then an error.
 * All retries happen here. An item is blamed only for what happens when it runs alone: a hang gives 408, a crash or
 * refusal gives 500.
 * @returns how long the run together took, in milliseconds; `failed` if it gave no results; `not_started` if the items must
 *   run another time, because their process has ended in the run before
 */
export async function attempt(
  items: readonly [RunnableRows, ...RunnableRows[]],
  lease: Lease,
  options: AttemptOptions,
): Promise<number | 'failed' | 'not_started'> {
  const { log, budgetMs } = options;
  try {
    const rows = items.flatMap((item) => item.rows);
    const tokens = Math.max(...items.map((item) => item.tokens));
    const request = { rows, parameters: items[0].parameters };
    const { results, ms } = await lease.run(request, budgetMs(rows.length, tokens));
    let start = 0;
    for (const item of items) {
      const end = start + item.rows.length;
      settleWith(item, results.slice(start, end));
      start = end;
    }
    return ms;
  } catch (error) {
    if (!(error instanceof RunError)) throw error;
    if (error.kind === 'not_started') return 'not_started';
    log.warn(
      {
        kind: error.kind,
        items: items.length,
        reason: error.reason,
        request_ids: items.map(({ id }) => requestIdOf(id)),
      },
      'Micro-batch failed; running each item alone',
    );
    log.debug({ err: error }, 'Micro-batch failed');
    await Promise.all(items.map((item) => attemptAlone(item, options)));
    return 'failed';
  }
}

async function attemptAlone(item: RunnableRows, options: AttemptOptions): Promise<void> {
  const { pool, budgetMs, maxFailuresAlone, log } = options;
  const { id, rows, tokens, parameters } = item;
  for (let failures = 1; ; failures++) {
    const lease = await pool.acquireAgain();
    if (item.expired()) {
      lease.release();
      item.settle({ kind: 'expired' });
      return;
    }
    try {
      const request = { rows: [...rows], parameters };
      settleWith(item, (await lease.run(request, budgetMs(rows.length, tokens))).results);
      return;
    } catch (error) {
      if (!(error instanceof RunError)) throw error;
      const { kind, reason } = error;
      if (kind === 'not_started') {
        failures--;
        continue;
      }
      log.warn({ kind, reason, request_id: requestIdOf(id) }, 'Item failed when it ran alone');
      log.debug({ err: error }, 'Item failed');
      // The model would refuse the item again.
      if (kind !== 'refused' && failures < maxFailuresAlone) continue;
      item.settle({ kind: kind === 'hung' ? 'timed_out' : 'failed' });
      return;
    }
  }
}

function settleWith(item: RunnableRows, results: readonly RowResult[]): void {
  item.settle(results.length === item.rows.length ? { kind: 'ran', results } : { kind: 'failed' });
}
