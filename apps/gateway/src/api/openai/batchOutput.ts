import { setImmediate } from 'node:timers/promises';
import { openAiErrors, problems, statusOf } from '@sluice/contract';
import type { JobItem, JobRecord, Ledger, StoredResult } from '@sluice/shared';
import { textClassification, vectorSchema } from '@sluice/tasks';
import * as z from 'zod';
import { fromRedis, Problem } from '../../http/problem.js';
import type { OutputKind } from '../../jobs/batchIds.js';
import type { BatchJob } from './batchRecord.js';
import { embeddingsAnswer } from './embeddings.js';
import { moderationsAnswer } from './moderations.js';

/** Chunks that are read at once; a chunk may have megabytes. */
const CHUNKS_PER_READ = 8;
/** Items whose lines are made before other requests go on. */
const ITEMS_AT_ONCE = 16;

const OK = 200;
const vectorsSchema = z.array(vectorSchema);
const scoresSchema = z.array(textClassification.output);

/**
 * The lines of an output file of an ended batch, a few at a time: each request with an answer, or each without one. They are
 * read from the ledger.
 * @throws Problem `not_found` if the job is erased meanwhile; `unavailable`
 */
export async function* outputLines(
  ledger: Ledger,
  batch: BatchJob,
  kind: OutputKind,
): AsyncGenerator<string> {
  const { job } = batch;
  let index = 0;
  for (let chunk = 0; chunk < job.chunks; chunk += CHUNKS_PER_READ) {
    const chunks = await fromRedis(ledger.chunks(job.id, chunk, CHUNKS_PER_READ));
    if (chunks.length !== Math.min(CHUNKS_PER_READ, job.chunks - chunk)) throw new Problem('not_found');
    for (const { items, results } of chunks) {
      let lines = '';
      for (const [i, item] of items.entries()) {
        lines += await lineOf(batch, index++, item, results?.[i], kind);
        if (i % ITEMS_AT_ONCE === ITEMS_AT_ONCE - 1) await setImmediate();
      }
      if (lines !== '') yield lines;
    }
  }
}

async function lineOf(
  batch: BatchJob,
  index: number,
  item: JobItem,
  result: StoredResult | undefined,
  kind: OutputKind,
): Promise<string> {
  const hasAnswer = result !== undefined && 'output' in result;
  if (hasAnswer !== (kind === 'output')) return '';
  const { job } = batch;
  const id = `batch_req_${job.id.replaceAll('-', '')}_${index}`;
  const response = (status: number, body: object) => ({ status_code: status, request_id: id, body });
  const line = {
    id,
    custom_id: String(item.id ?? index),
    ...(result === undefined
      ? { response: null, error: unansweredError(job) }
      : 'error' in result
        ? { response: response(statusOf(openAiErrors, result.error), errorBody(result)), error: null }
        : { response: response(OK, await answerBody(batch, item, result, id)), error: null }),
  };
  return `${JSON.stringify(line)}\n`;
}

async function answerBody(
  { job, details }: BatchJob,
  item: JobItem,
  { output, tokens }: Extract<StoredResult, { output: unknown }>,
  id: string,
): Promise<object> {
  if (details.endpoint === '/v1/moderations')
    return moderationsAnswer(id, job.modelId, scoresSchema.parse(output), details.threshold);
  const format = 'format' in item && item.format === 'base64' ? 'base64' : 'float';
  return embeddingsAnswer(job.modelId, vectorsSchema.parse(output), tokens, format);
}

function errorBody({ error, detail }: Extract<StoredResult, { error: string }>): object {
  return openAiErrors.body({ code: error, detail: detail ?? problems[error].detail });
}

/** Why a request of an ended batch has no answer. */
function unansweredError({ status, error }: JobRecord) {
  return status === 'canceled'
    ? { code: 'batch_cancelled', message: 'The batch was canceled before this request was processed' }
    : {
        code: 'batch_expired',
        message: `The batch ended before this request was processed${error ? `: ${error}` : ''}`,
      };
}
