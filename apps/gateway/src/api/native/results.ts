import { setImmediate } from 'node:timers/promises';
import { type JobResult, problems } from '@sluice/contract';
import { isFinished, type JobItem, type JobRecord, type Ledger, type StoredResult } from '@sluice/shared';
import { textClassification } from '@sluice/tasks';
import type { Response } from 'express';
import { fromRedis } from '../../http/problem.js';
import { writePart } from '../../http/stream.js';
import { type EncodingFormat, jsonOutput } from '../../models/jsonOutput.js';

/** Chunks that are read at once for a stream of results; a chunk may have megabytes. */
const CHUNKS_PER_READ = 8;
/** Chunks of a page; a page with more ends early. */
const CHUNKS_PER_PAGE = 64;

/** Which results are read, and how vectors are shown. */
interface Range {
  /** Index of the first result. */
  from: number;
  /** One past the last. */
  end: number;
  format: EncodingFormat;
  /** Whether the model is a text classifier, whose results also show the best label. */
  isClassifier: boolean;
}

/** The number of the chunk that has an item. */
function chunkOf(starts: readonly number[], index: number): number {
  let low = 0;
  let high = starts.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((starts[middle] ?? 0) <= index) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/**
 * Some results of a job.
 * @param starts index of the first item of each chunk
 * @returns the results; `complete` is false if they stop at a chunk that is not stored yet
 * @throws Problem `unavailable`
 */
export async function readResults(
  ledger: Ledger,
  job: JobRecord,
  starts: readonly number[],
  { from, end, format, isClassifier }: Range,
) {
  const first = chunkOf(starts, from);
  const last = from < end ? Math.min(chunkOf(starts, end - 1) + 1, first + CHUNKS_PER_PAGE) : first;
  const chunks = first >= 0 ? await fromRedis(ledger.chunks(job.id, first, last - first)) : [];
  const results: JobResult[] = [];
  for (const [i, { items, results: stored }] of chunks.entries()) {
    if (stored === undefined && !isFinished(job.status)) return { results, complete: false };
    for (const [j, item] of items.entries()) {
      const index = (starts[first + i] ?? 0) + j;
      if (index >= from && index < end)
        results.push(resultBody(index, item, stored?.[j], job, { format, isClassifier }));
    }
    // Vectors take long to write as decimals.
    await setImmediate();
  }
  return { results, complete: true };
}

/**
 * Sends results as NDJSON, a few chunks at a time.
 * @param starts index of the first item of each chunk
 * @throws Problem `unavailable`, after which the route breaks off the response
 */
export async function streamResults(
  ledger: Ledger,
  job: JobRecord,
  starts: readonly number[],
  { from, end, ...shown }: Range,
  response: Response,
  signal: AbortSignal,
): Promise<void> {
  response.status(200).type('application/x-ndjson');
  for (let next = from; next < end && !signal.aborted; ) {
    const stop = starts[chunkOf(starts, next) + CHUNKS_PER_READ] ?? end;
    const range = { from: next, end: Math.min(stop, end), ...shown };
    next = range.end;
    const { results, complete } = await readResults(ledger, job, starts, range);
    // The job was erased or has expired: end the stream early, so that the client does not take it for complete.
    if (results.length === 0 && complete) {
      response.destroy();
      return;
    }
    const text = results.map((result) => `${JSON.stringify(result)}\n`).join('');
    await writePart(response, text, signal);
    if (!complete) break;
  }
  response.end();
}

/** The input of an item as it was sent. */
function shownInput(item: JobItem): Pick<JobResult, 'text' | 'input' | 'inputs'> {
  if ('text' in item) return { text: item.text };
  return 'inputs' in item ? { inputs: [...item.inputs] } : { input: item.input };
}

function resultBody(
  index: number,
  item: JobItem,
  result: StoredResult | undefined,
  job: JobRecord,
  { format, isClassifier }: Pick<Range, 'format' | 'isClassifier'>,
): JobResult {
  const { id } = item;
  const base = {
    index,
    ...(id === undefined ? {} : { id }),
    ...shownInput(item),
  };
  if (result === undefined) {
    return {
      ...base,
      error: { code: `job_${job.status}`, detail: 'The job ended before this input was processed' },
    };
  }
  if ('error' in result)
    return { ...base, error: { code: result.error, detail: result.detail ?? problems[result.error].detail } };
  const [top] = isClassifier ? (textClassification.output.safeParse(result.output).data ?? []) : [];
  return {
    ...base,
    output: jsonOutput(result.output, format),
    ...(top ? { sentiment: top.label.toLowerCase(), confidence: top.score } : {}),
    tokens: result.tokens,
    ...(result.truncated ? { truncated: true } : {}),
  };
}
