import type { Lane } from '@sluice/shared';

/** What the batcher knows about pending rows of an item. */
export interface Sized {
  rows: readonly unknown[];
  /** Length of the longest row in tokens. */
  tokens: number;
  /** JSON of the run parameters. Rows run together only if it is equal. */
  group: string;
}

/** What a micro-batch may hold, and what a run costs. */
export interface MicroBatchLimits {
  /** Maximum number of rows. */
  rows: number;
  /** Maximum number of tokens, padding included; the rows of a single item may have more. */
  tokens: number;
  /** Cost of a run, whatever is in it, in the time of this many tokens. */
  runCostTokens: number;
}

/** While interactive items are pending, every n-th micro-batch is one of the bulk lane. */
const BULK_EVERY = 8;

/**
 * The lane of the next micro-batch. Interactive items go first, except for the share of the bulk lane. So a job always
 * progresses, and an interactive item waits for at most one running and one reserved bulk micro-batch.
 * @param pending number of pending items in each lane
 * @param sinceBulk number of micro-batches since the last one of the bulk lane
 */
export function nextLane(pending: Readonly<Record<Lane, number>>, sinceBulk: number): Lane {
  if (pending.interactive === 0) return 'bulk';
  return pending.bulk > 0 && sinceBulk >= BULK_EVERY - 1 ? 'bulk' : 'interactive';
}

/**
 * The next micro-batch of the pending rows of items. It always includes the oldest one, so that none is left behind, and only
 * items of its group. The function considers all ways to split these items, sorted by length, into micro-batches within
 * the limits. It takes the way with the least cost of runs and padding, and returns its part with the oldest item. Items
 * of different length are better run apart: with the bundled model, eight random sentences together cost more than
 * eight alone. It never waits for more items.
 * @param pending oldest first
 */
export function nextMicroBatch<T extends Sized>(
  pending: readonly T[],
  limits: MicroBatchLimits,
): [T, ...T[]] | undefined {
  const [oldest] = pending;
  if (oldest === undefined) return undefined;
  const sorted = pending
    .filter(({ group }) => group === oldest.group)
    .sort((one, other) => one.tokens - other.tokens);
  /** For the first `end` items: the least cost, and where the last micro-batch of that way starts. */
  const ways = [{ cost: 0, start: 0 }];
  for (const [last, { tokens: longest }] of sorted.entries()) {
    let best = { cost: Number.POSITIVE_INFINITY, start: last };
    let rows = 0;
    for (let start = last; start >= 0; start--) {
      rows += sorted[start]?.rows.length ?? 0;
      if (start < last && (rows > limits.rows || rows * longest > limits.tokens)) break;
      const cost = (ways[start]?.cost ?? 0) + limits.runCostTokens + rows * longest;
      if (cost < best.cost) best = { cost, start };
    }
    ways.push(best);
  }
  const at = sorted.indexOf(oldest);
  let end = sorted.length;
  for (let start = ways[end]?.start ?? 0; start > at; start = ways[end]?.start ?? 0) end = start;
  const [first = oldest, ...others] = sorted.slice(ways[end]?.start, end);
  return [first, ...others];
}
