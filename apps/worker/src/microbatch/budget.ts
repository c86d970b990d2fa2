import type { Lane } from '@sluice/shared';

/** A run that takes this many times as long as predicted is hung. */
export const TIMES_PREDICTED = 5;
/** A run may take at most this fraction of the timeout, so that a second run still fits into it. */
const TIMEOUT_SHARE = 0.4;

/** What a run is predicted to cost. */
interface Cost {
  msPerRun: number;
  msPerToken: number;
}

/**
 * The budgets of a model's runs. They grow with the predicted time, so that slow models are not killed. In the
 * interactive lane it may not take so long that an item whose run hung could not run again before its deadline.
 */
export interface Budget {
  /** The budget of a run in milliseconds, by its number of rows and the tokens of the longest one. */
  budgetMs(lane: Lane, rows: number, tokens: number): number;
  /** The largest micro-batch, in tokens with padding, whose run fits into its budget with room to spare. */
  maxTokens: number;
  /** The predicted time of a row, and its limit in the interactive lane, in milliseconds. */
  row(tokens: number): { predictedMs: number; limitMs: number };
}

export function createBudget(
  { msPerRun, msPerToken }: Cost,
  { stallMs, timeoutMs }: { stallMs: number; timeoutMs: number },
): Budget {
  const limitMs = TIMEOUT_SHARE * timeoutMs;
  const predictedMs = (rows: number, tokens: number) => msPerRun + rows * tokens * msPerToken;
  return {
    budgetMs(lane, rows, tokens) {
      const budgetMs = Math.max(stallMs, TIMES_PREDICTED * predictedMs(rows, tokens));
      return lane === 'bulk' ? budgetMs : Math.min(budgetMs, limitMs);
    },
    maxTokens: Math.max(1, Math.floor((limitMs / TIMES_PREDICTED - msPerRun) / msPerToken)),
    row: (tokens) => ({ predictedMs: predictedMs(1, tokens), limitMs }),
  };
}
