import { epochMs, failSpan, type Log, requestIdOf, type Span, SpanKind, startSpan } from '@sluice/shared';
import type { Row } from '@sluice/tasks';
import type { Lease, Pool } from './pool.js';
import type { RowResult, RunRequest } from './protocol.js';
import { RunError, type RunResult } from './supervisor.js';

/** How rows ended: with results, with an error, or dropped before a run because nobody waits for them any more. */
export type Settlement =
  | {
      kind: 'ran';
      results: readonly RowResult[];
      /** When the run started, on the monotonic clock. */
      startedMs: number;
    }
  | { kind: 'timed_out' | 'failed' | 'expired' };

/** Rows of one item that run together. */
export interface RunnableRows {
  /** Id of the item. */
  id: string;
  rows: readonly Row[];
  /** Length of the longest row in tokens. */
  tokens: number;
  parameters: RunRequest['parameters'];
  /** The spans of the items that get the results, if they are traced. */
  spans: readonly Span[];
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
 * @returns the run together; `failed` if it gave no results; `not_started` if the items must
 *   run another time, because their process has ended in the run before
 */
export async function attempt(
  items: readonly [RunnableRows, ...RunnableRows[]],
  lease: Lease,
  options: AttemptOptions,
): Promise<RunResult | 'failed' | 'not_started'> {
  const { log, budgetMs } = options;
  try {
    const rows = items.flatMap((item) => item.rows);
    const tokens = Math.max(...items.map((item) => item.tokens));
    const request = { rows, parameters: items[0].parameters };
    const run = await runTraced(items, () => lease.run(request, budgetMs(rows.length, tokens)));
    let start = 0;
    for (const item of items) {
      const end = start + item.rows.length;
      settleWith(item, run.results.slice(start, end), run);
      start = end;
    }
    return run;
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
      const run = await runTraced([item], () => lease.run(request, budgetMs(rows.length, tokens)));
      settleWith(item, run.results, run);
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

function settleWith(item: RunnableRows, results: readonly RowResult[], { startedMs }: RunResult): void {
  item.settle(results.length === item.rows.length ? { kind: 'ran', results, startedMs } : { kind: 'failed' });
}

/**
 * Runs a micro-batch and records spans for its traced items. The span `micro-batch` is in the trace of the first item and links to
 * the others; `inference` is its child. Each other trace gets a span that links to `micro-batch`.
 */
async function runTraced(items: readonly RunnableRows[], run: () => Promise<RunResult>): Promise<RunResult> {
  const traced = new Set(items.flatMap(({ spans }) => spans).filter((span) => span.isRecording()));
  const [first, ...others] = traced;
  if (first === undefined) return run();
  const calledMs = epochMs();
  /** Starts the span of the micro-batch, and one in each other trace. */
  const startSpans = (startMs: number) => {
    const kind = SpanKind.INTERNAL;
    const attributes = {
      'sluice.items': items.length,
      'sluice.rows': items.reduce((sum, { rows }) => sum + rows.length, 0),
    };
    const microBatch = startSpan('micro-batch', { kind, attributes, parent: first, links: others, startMs });
    const { traceId } = first.spanContext();
    const shares = others
      .filter((span) => span.spanContext().traceId !== traceId)
      .map((parent) =>
        startSpan('micro-batch of another trace', { kind, parent, links: [microBatch], startMs }),
      );
    return { microBatch, all: [microBatch, ...shares] };
  };
  try {
    const done = await run();
    const { microBatch, all } = startSpans(epochMs(done.startedMs));
    const { startedMs, endedMs, pid } = done.inProcess;
    startSpan('inference', {
      kind: SpanKind.INTERNAL,
      ...(pid === undefined ? {} : { attributes: { 'process.pid': pid } }),
      parent: microBatch,
      startMs: startedMs,
    }).end(endedMs);
    for (const span of all) span.end();
    return done;
  } catch (error) {
    const kind = error instanceof RunError ? error.kind : 'unexpected';
    // Another process runs it.
    if (kind === 'not_started') throw error;
    for (const span of startSpans(calledMs).all) {
      failSpan(span, kind);
      span.end();
    }
    throw error;
  }
}
