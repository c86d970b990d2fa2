import { type Log, type Outcome, requestIdOf, type Span } from '@sluice/shared';
import type { Row, Task } from '@sluice/tasks';
import type { PendingRows } from '../microbatch/pending.js';
import type { Settlement } from '../process/attempt.js';
import type { RowResult } from '../process/protocol.js';

/** An item as it arrives: nothing in it is parsed. */
interface RawItem {
  id: string;
  input: unknown;
  parameters: unknown;
  /** Whether nobody waits for it any more. */
  expired: () => boolean;
  /** Called when its first run has started, with the time on the monotonic clock. */
  onRun?: (startedMs: number) => void;
  /** Its span, if it is traced. */
  span?: Span | undefined;
}

/** Runs an item of one model and resolves to its outcome. It calls `hold` with its rows before its first `await`. */
export type RunItem = (
  item: RawItem,
  add: (rows: PendingRows) => void,
  hold: (rows: number) => void,
) => Promise<Outcome | { kind: 'expired' }>;

/** The tokens of an item with more rows are estimated: counting takes up to a millisecond a row, and nothing else runs then. */
const MAX_COUNTED_ROWS = 32;

interface Model {
  task: Task;
  /** What the model reports for its task, parsed. */
  facts: unknown;
  /** Maximum number of tokens of a row. */
  maxTokens: number;
  /** Limits of a micro-batch. An item with more rows or tokens runs in parts, so that it does not hold up others. */
  limits: { rows: number; tokens: number };
  countTokens: (row: Row) => number;
  /** The same from the number of bytes, for an item with many rows. */
  estimateTokens: (row: Row) => number;
}

/**
 * Creates the function that runs the items of one model. An expired item is dropped. A malformed one fails alone, so that
 * it does not affect the others in its message or chunk.
 */
export function createRunItem(
  { task, facts, maxTokens, limits, countTokens, estimateTokens }: Model,
  log: Log,
): RunItem {
  /** The outcome of an item whose rows have run. */
  function outcomeOf(
    id: string,
    input: unknown,
    parameters: unknown,
    results: readonly RowResult[],
  ): Outcome {
    const truncated = results.some((result) => result.truncated);
    if (truncated && !task.mayTruncate(parameters)) return { kind: 'too_long', maxTokens };
    const raws = results.map(({ raw }) => task.raw.safeParse(raw));
    // A model may return what its task does not allow, such as NaN.
    const output = raws.every(({ success }) => success)
      ? task.output.safeParse(
          task.combine(
            raws.map(({ data }) => data),
            input,
            parameters,
            facts,
          ),
        )
      : undefined;
    if (!output?.success) {
      log.warn({ request_id: requestIdOf(id) }, 'The model returned an invalid output');
      return { kind: 'failed' };
    }
    const tokens = results.reduce((sum, result) => sum + result.tokens, 0);
    return { kind: 'answer', output: output.data, tokens, truncated };
  }

  return async ({ id, expired, onRun, span, ...raw }, add, hold) => {
    if (expired()) return { kind: 'expired' };
    const input = task.input.safeParse(raw.input);
    const parameters = task.parameters.safeParse(raw.parameters);
    if (!input.success || !parameters.success) {
      log.warn({ request_id: requestIdOf(id), err: input.error ?? parameters.error }, 'Malformed item');
      return { kind: 'failed' };
    }
    const wrong = task.wrongParameter(parameters.data, facts);
    if (wrong) return { kind: 'wrong_parameter', ...wrong };
    const rows = task.rows(input.data, parameters.data, facts);
    // The parts of an item take turns with other items, so only one of them is held.
    hold(Math.min(rows.length, limits.rows));
    const runParameters = task.runParameters(parameters.data);
    const group = JSON.stringify(runParameters);
    let ended = false;
    const parts = partsOf(rows, rows.length > MAX_COUNTED_ROWS ? estimateTokens : countTokens, limits).map(
      ({ rows: part, tokens }, i) => {
        return new Promise<Settlement>((resolve) => {
          add({
            id,
            rows: part,
            tokens,
            parameters: runParameters,
            group,
            part: i,
            spans: span ? [span] : [],
            contents: `${group} ${JSON.stringify(part)}`,
            // The other parts of a failed item need not run.
            expired: () => ended || expired(),
            settle: (settlement) => {
              if (settlement.kind !== 'ran') ended = true;
              resolve(settlement);
            },
          });
        });
      },
    );
    const results: RowResult[] = [];
    const settlements = await Promise.all(parts);
    const [first] = settlements;
    if (first?.kind === 'ran') onRun?.(first.startedMs);
    const failed = settlements.find(({ kind }) => kind === 'timed_out' || kind === 'failed');
    for (const settlement of failed ? [failed] : settlements) {
      if (settlement.kind !== 'ran') return { kind: settlement.kind };
      results.push(...settlement.results);
    }
    return outcomeOf(id, input.data, parameters.data, results);
  };
}

/** Rows that fit into a micro-batch, with the length of the longest one in tokens. */
interface Part {
  rows: Row[];
  tokens: number;
}

/** Divides the rows of an item into parts that fit into a micro-batch; a single row always makes a part. */
function partsOf(
  rows: readonly Row[],
  tokensOf: (row: Row) => number,
  limits: { rows: number; tokens: number },
): Part[] {
  const parts: Part[] = [];
  for (const row of rows) {
    const last = parts.at(-1);
    const rowTokens = tokensOf(row);
    const tokens = Math.max(rowTokens, last?.tokens ?? 0);
    const count = (last?.rows.length ?? 0) + 1;
    if (last && count <= limits.rows && count * tokens <= limits.tokens) {
      last.rows.push(row);
      last.tokens = tokens;
    } else parts.push({ rows: [row], tokens: rowTokens });
  }
  return parts;
}
