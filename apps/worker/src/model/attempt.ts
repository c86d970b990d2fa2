import type { Log, Outcome } from '@sluice/shared';
import type { Lease, Pool } from './pool.js';
import type { TextResult } from './protocol.js';
import { RunError } from './supervisor.js';

/** A text on its way through its runs. */
export interface Attemptable {
  id: string;
  text: string;
  topK: number;
  /** Whether nobody waits for it any more. */
  expired(): boolean;
  /** Takes what became of it; `expired` when it was dropped before a run. Called once. */
  settle(outcome: Outcome | { kind: 'expired' }): void;
}

/** A second run, of one text alone, has this part of the first one's budget. */
const SECOND_BUDGET = 0.5;

/**
 * Runs a micro-batch: together, then, when that gave nothing, each text alone, then an error. The one place that
 * tries again. Only what a text does alone is its own: a hang there is its 408, a crash or refusal its 500.
 * @param stallMs budget of the run together
 * @returns whether the run together gave results
 */
export async function attempt(
  batch: readonly Attemptable[],
  lease: Lease,
  pool: Pool,
  stallMs: number,
  log: Log,
): Promise<boolean> {
  try {
    const topK = Math.max(...batch.map((item) => item.topK));
    const results = await lease.run(
      batch.map(({ text }) => text),
      topK,
      stallMs,
    );
    for (const [i, item] of batch.entries()) item.settle(outcomeOf(item, results[i]));
    return true;
  } catch (error) {
    if (!(error instanceof RunError)) throw error;
    log.warn(
      { err: error, kind: error.kind, texts: batch.length },
      'A micro-batch failed; trying each text alone',
    );
    await Promise.all(batch.map((item) => attemptAlone(item, pool, stallMs * SECOND_BUDGET, log)));
    return false;
  }
}

async function attemptAlone(item: Attemptable, pool: Pool, budgetMs: number, log: Log): Promise<void> {
  const lease = await pool.acquire({ secondRun: true });
  if (item.expired()) {
    lease.release();
    item.settle({ kind: 'expired' });
    return;
  }
  try {
    const [result] = await lease.run([item.text], item.topK, budgetMs);
    item.settle(outcomeOf(item, result));
  } catch (error) {
    if (!(error instanceof RunError)) throw error;
    log.warn({ err: error, kind: error.kind, id: item.id }, 'A text failed alone');
    item.settle({ kind: error.kind === 'hung' ? 'timed_out' : 'failed' });
  }
}

function outcomeOf({ topK }: Attemptable, result: TextResult | undefined): Outcome {
  if (result === undefined) return { kind: 'failed' };
  return { kind: 'answer', labels: result.labels.slice(0, topK), truncated: result.truncated };
}
