import type { Lane } from '@sluice/shared';

/** What the batcher knows of a text that waits. */
export interface Sized {
  /** Length in tokens. */
  tokens: number;
}

export interface MicroBatchLimits {
  /** Most texts. */
  texts: number;
  /** Most tokens, padding included; a single text may have more. */
  tokens: number;
}

/** Under pressure bulk has one micro-batch in this many. */
const BULK_SHARE = 8;

/**
 * The lane that the next micro-batch is drawn from: interactive goes first, but for bulk's share, so that a batch moves
 * on whatever else comes, and someone who waits does so for one running and one reserved bulk micro-batch at most.
 * @param waiting how many texts wait in each lane
 * @param sinceBulk how many micro-batches were drawn since bulk's last
 */
export function nextLane(waiting: Readonly<Record<Lane, number>>, sinceBulk: number): Lane {
  if (waiting.interactive === 0) return 'bulk';
  return waiting.bulk > 0 && sinceBulk >= BULK_SHARE - 1 ? 'bulk' : 'interactive';
}

/**
 * What a run costs by itself, in the time of so many tokens. Measured with the bundled model, one thread: 0.31 ms a run
 * and 0.052 ms a token, padding included; and about as much again for the messages around a run. Large models have
 * dearer runs and dearer tokens alike.
 */
const TOKENS_A_RUN = 12;

/**
 * The next micro-batch of those that wait: always with the oldest, so that nobody is left behind. Of all ways to run
 * what waits, in order of length and within the limits, it takes the one that costs least in padding and runs together,
 * and of that the part with the oldest. Texts of unlike length are better run apart: eight at random cost more than
 * eight alone. Never waits for more.
 * @param waiting oldest first
 */
export function nextMicroBatch<T extends Sized>(waiting: readonly T[], limits: MicroBatchLimits): T[] {
  const [oldest] = waiting;
  if (oldest === undefined) return [];
  const sorted = [...waiting].sort((a, b) => a.tokens - b.tokens);
  /** The least cost of the first `end` texts, and where the last micro-batch of that way begins. */
  const ways = [{ cost: 0, start: 0 }];
  for (const [last, { tokens: longest }] of sorted.entries()) {
    let best = { cost: Number.POSITIVE_INFINITY, start: last };
    for (let texts = 1; texts <= Math.min(limits.texts, last + 1); texts++) {
      if (texts > 1 && texts * longest > limits.tokens) break;
      const start = last + 1 - texts;
      const cost = (ways[start]?.cost ?? 0) + TOKENS_A_RUN + texts * longest;
      if (cost < best.cost) best = { cost, start };
    }
    ways.push(best);
  }
  const at = sorted.indexOf(oldest);
  let end = sorted.length;
  for (let start = ways[end]?.start ?? 0; start > at; start = ways[end]?.start ?? 0) end = start;
  return sorted.slice(ways[end]?.start, end);
}
