import {
  CHUNK_ITEMS,
  type ChunkMessage,
  chunkMessageSchema,
  enqueueChunks,
  inputsOf,
  isFinished,
  type JobItem,
  type JobRecord,
  type Ledger,
  type Log,
  logEnded,
  malformed,
  type Span,
  SpanKind,
  type StoredResult,
  startSpan,
} from '@sluice/shared';
import type { Queue } from 'bullmq';
import type { PendingRows } from '../microbatch/pending.js';
import type { RunItem } from './item.js';
import type { HoldRows } from './reader.js';

/** How chunk messages are read: see {@link QueueReader}. */
export const BULK_QUEUE = {
  /** Nobody waits for a chunk: another worker takes a dead worker's chunks after a few seconds. */
  lockMs: 4_000,
  /** No practical limit. An item that crashes its model process fails in its run alone, so the chunk must not fail. */
  maxStalled: 1_000_000,
};

/** A canceled job is noticed within this time, in milliseconds. */
const CHECK_EVERY_MS = 500;

interface Options {
  /** Runs the items of a request. */
  interactiveWork: (data: unknown, hold: HoldRows) => Promise<void>;
  ledger: Ledger;
  /** Hash of the model spec. */
  specHash: string;
  /** The bulk queue, for the chunks that are handed out when one is stored. */
  queue: Queue<ChunkMessage>;
  /** How many chunks of one caller may be in flight. */
  maxInFlight: () => number;
  runItem: RunItem;
  add: (rows: PendingRows) => void;
  log: Log;
}

/**
 * Creates the function for messages of the bulk lane. It runs the items of a chunk and stores their results. A message may
 * also carry the items of a large request, which are answered like those of the interactive lane.
 */
export function createBulkWork({
  interactiveWork,
  ledger,
  specHash,
  queue,
  maxInFlight,
  runItem,
  add,
  log,
}: Options) {
  /** Results of a chunk's items, in order; undefined if its job ended in the meantime. Its rows are held until stored. */
  async function run(
    { id: jobId, parameters }: JobRecord,
    chunk: number,
    span: Span | undefined,
    items: readonly JobItem[],
    hold: HoldRows,
  ): Promise<StoredResult[] | undefined> {
    let ended = false;
    let checking = false;
    const check = setInterval(async () => {
      // If Redis is slow, checks must not pile up.
      if (checking) return;
      checking = true;
      try {
        ended = !(await ledger.isLive(jobId));
      } catch (err) {
        log.debug({ err, job_id: jobId }, 'Could not read a job');
      }
      checking = false;
    }, CHECK_EVERY_MS);
    try {
      const results = await Promise.all(
        items.map(async (item, i) => {
          const outcomes = inputsOf(item).map((input, j) =>
            runItem(
              {
                id: `${jobId}/${chunk}/${i}${'inputs' in item ? `/${j}` : ''}`,
                input,
                parameters: 'inputs' in item ? item.parameters : parameters,
                expired: () => ended,
                span,
              },
              add,
              hold,
            ),
          );
          const found = (await Promise.all(outcomes)).map(resultOf);
          return 'inputs' in item ? joined(found) : found[0];
        }),
      );
      return results.every((result) => result !== undefined) ? results : undefined;
    } finally {
      clearInterval(check);
    }
  }

  return async function work(data: unknown, hold: HoldRows): Promise<void> {
    if (isRequest(data)) return interactiveWork(data, hold);
    // Its rows are not known yet, so it counts as 32 of them.
    const release = hold(CHUNK_ITEMS);
    const parsed = chunkMessageSchema.safeParse(data);
    if (!parsed.success) throw malformed(parsed.error);
    const { jobId, chunk } = parsed.data;
    const [job, items, isStored] = await Promise.all([
      ledger.read(jobId),
      ledger.items(jobId, chunk),
      ledger.isStored(jobId, chunk),
    ]);
    // The worker that stored it may have died before it completed the message, or a sweep may have put it into the queue again.
    if (isStored) return;
    if (job === undefined || items === undefined || isFinished(job.status)) return;
    // The sweep puts it into the queue of its configuration.
    if (job.specHash !== specHash) return;
    // A job may last for hours, so each chunk has a trace, which is linked to that of the submission.
    const span =
      job.trace &&
      startSpan(`process chunk ${job.modelId}`, {
        kind: SpanKind.CONSUMER,
        attributes: { 'messaging.system': 'bullmq', 'sluice.job_id': jobId, 'sluice.chunk': chunk },
        links: [job.trace],
      });
    const running = run(job, chunk, span, items, hold).finally(() => span?.end());
    release();
    const results = await running;
    // The job ended in the meantime; its record says how.
    if (results === undefined) return;
    const { ended, handedOut } = await ledger.store(job, chunk, items, results, maxInFlight());
    if (ended) void logEnded(ledger, jobId, log);
    await enqueueChunks(queue, handedOut);
  };
}

function resultOf(outcome: Awaited<ReturnType<RunItem>>): StoredResult | undefined {
  switch (outcome.kind) {
    case 'answer':
      return {
        output: outcome.output,
        tokens: outcome.tokens,
        ...(outcome.truncated ? { truncated: true } : {}),
      };
    case 'timed_out':
      return { error: 'analysis_timed_out' };
    case 'failed':
      return { error: 'analysis_failed' };
    case 'too_long':
      return { error: 'input_too_long' };
    case 'wrong_parameter':
      return { error: 'wrong_parameter', detail: `${outcome.name}: ${outcome.detail}` };
    case 'expired':
      return undefined;
  }
}

/** The result of an item with several inputs: all of them are answered, or it fails with the first error. */
function joined(results: readonly (StoredResult | undefined)[]): StoredResult | undefined {
  const output: unknown[] = [];
  let tokens = 0;
  let truncated = false;
  for (const result of results) {
    if (result === undefined || 'error' in result) return result;
    output.push(result.output);
    tokens += result.tokens;
    truncated ||= result.truncated ?? false;
  }
  return { output, tokens, ...(truncated ? { truncated: true } : {}) };
}

/** Whether a message carries items of a request; a chunk message names a job. */
const isRequest = (data: unknown) => typeof data === 'object' && data !== null && 'items' in data;
