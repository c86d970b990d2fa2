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
 * The next micro-batch of those that wait: always with the oldest, so that nobody is left behind; else as many as
 * may go together, of the lengths that waste least on padding. Never waits for more.
 * @param waiting oldest first
 */
export function nextMicroBatch<T extends Sized>(waiting: readonly T[], limits: MicroBatchLimits): T[] {
  const [oldest] = waiting;
  if (oldest === undefined) return [];
  const sorted = [...waiting].sort((a, b) => a.tokens - b.tokens);
  const at = sorted.indexOf(oldest);
  let best = { start: at, end: at, padding: 0 };
  for (let start = Math.max(0, at - limits.texts + 1); start <= at; start++) {
    let tokens = 0;
    for (let end = start; end < Math.min(sorted.length, start + limits.texts); end++) {
      const longest = sorted[end]?.tokens ?? 0;
      tokens += longest;
      if (end < at) continue;
      const texts = end - start + 1;
      if (texts > 1 && texts * longest > limits.tokens) break;
      const padding = texts * longest - tokens;
      const more = texts - (best.end - best.start + 1);
      if (more > 0 || (more === 0 && padding < best.padding)) best = { start, end, padding };
    }
  }
  return sorted.slice(best.start, best.end + 1);
}
