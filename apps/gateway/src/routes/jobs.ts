import { once } from 'node:events';
import { cursorOf, type ItemBody, offsetOf, problems } from '@sluice/contract';
import {
  type BatchRecord,
  CHUNK_TEXTS,
  type ChunkJob,
  followEnd,
  type Item,
  type ItemResult,
  isFinished,
  type KeyRecord,
  type Ledger,
  type Log,
} from '@sluice/shared';
import type { Queue } from 'bullmq';
import type { Response } from 'express';
import { fromRedis, Problem } from '../errors/problem.js';
import type { Changes } from '../events/changes.js';
import type { Handlers } from './handlers.js';
import { jobBody } from './jobBody.js';

interface Services {
  ledger: Ledger;
  queue: Queue<ChunkJob>;
  changes: Changes;
  mostOut: () => number;
  draining: () => boolean;
  log: Log;
}

/** Seconds after which an unfinished job is worth another look. */
const RETRY_AFTER_SECONDS = '1';
/** Chunks that are read at once for a stream of results. */
const STREAM_CHUNKS = 16;
/** A client that reads nothing of its results for so long, in milliseconds, is gone. */
const STALL_MS = 60_000;

/** Handlers of the routes about jobs. To any key but the one that made it a job is not there. */
export function jobRoutes(
  services: Services,
): Pick<Handlers, 'job' | 'jobs' | 'results' | 'events' | 'endJob'> {
  const { ledger, queue, changes, mostOut, draining, log } = services;

  async function own(jobId: string, { id: keyId }: KeyRecord): Promise<BatchRecord> {
    const record = await fromRedis(ledger.read(jobId));
    if (record?.keyId !== keyId) throw new Problem('not_found');
    return record;
  }

  return {
    async job({ caller, params, response }) {
      const record = await own(params.id, caller.record);
      if (!isFinished(record.status)) response.set('Retry-After', RETRY_AFTER_SECONDS);
      return jobBody(record);
    },

    async jobs({ caller, query: { limit, cursor } }) {
      const offset = offsetOf(cursor);
      const { records, more } = await fromRedis(ledger.list(caller.record.id, offset, limit));
      return { jobs: records.map(jobBody), next_cursor: more ? cursorOf(offset + limit) : null };
    },

    async results({ caller, params, query: { limit, cursor, partial }, request, response, signal }) {
      const from = offsetOf(cursor);
      const record = await own(params.id, caller.record);
      const finished = isFinished(record.status);
      if (!finished) response.set('Retry-After', RETRY_AFTER_SECONDS);
      if (!finished && !partial) throw new Problem('results_not_ready');
      if (request.accepts(['application/json', 'application/x-ndjson']) === 'application/x-ndjson') {
        await stream(ledger, record, response, signal);
        return undefined;
      }
      const { results } = await page(ledger, record, from, limit);
      const next = from + results.length;
      return { results, next_cursor: next < record.total ? cursorOf(next) : null };
    },

    async events({ caller, params, request, response }) {
      if (draining()) throw new Problem('shutting_down');
      await own(params.id, caller.record);
      response.status(200).set({
        'Content-Type': 'text/event-stream',
        'Cache-Control': 'no-store',
        'X-Accel-Buffering': 'no',
      });
      response.flushHeaders();
      if (request.method === 'HEAD') response.end();
      else await changes.follow(params.id, response);
      return undefined;
    },

    async endJob({ caller, params, response }) {
      const record = await own(params.id, caller.record);
      if (!isFinished(record.status)) {
        const ending = await fromRedis(ledger.end(record, 'canceled', '', mostOut()));
        // The batch has ended; what is left of it in the queue is dropped by whoever draws it.
        followEnd(queue, ending).catch((err: unknown) =>
          log.debug({ err, job_id: record.id }, 'Chunks are left'),
        );
        return jobBody(await own(params.id, caller.record));
      }
      await fromRedis(ledger.erase(record.id, record.keyId));
      response.status(204).end();
      return undefined;
    },
  };
}

/** Results from an index on. Of an unfinished batch those up to the first chunk that is not stored: `ended` there. */
async function page(ledger: Ledger, record: BatchRecord, from: number, limit: number) {
  const first = Math.floor(from / CHUNK_TEXTS);
  const last = Math.min(record.chunks, Math.ceil((from + limit) / CHUNK_TEXTS));
  const chunks = first < last ? await fromRedis(ledger.chunks(record.id, first, last - first)) : [];
  const results: ItemBody[] = [];
  let ended = false;
  for (const [i, { items, results: stored }] of chunks.entries()) {
    if (stored === undefined && !isFinished(record.status)) {
      ended = true;
      break;
    }
    for (const [j, item] of items.entries()) {
      const index = (first + i) * CHUNK_TEXTS + j;
      if (index >= from && index < from + limit) results.push(itemBody(index, item, stored?.[j], record));
    }
  }
  return { results, ended };
}

/** All results as NDJSON, a few chunks at a time. */
async function stream(
  ledger: Ledger,
  record: BatchRecord,
  response: Response,
  signal: AbortSignal,
): Promise<void> {
  response.status(200).type('application/x-ndjson');
  const step = STREAM_CHUNKS * CHUNK_TEXTS;
  for (let from = 0; from < record.total && !signal.aborted; from += step) {
    const { results, ended } = await page(ledger, record, from, step);
    // Erased or expired in the middle: cut, so that nobody takes it for whole.
    if (results.length === 0 && !ended) {
      response.destroy();
      return;
    }
    const text = results.map((result) => `${JSON.stringify(result)}\n`).join('');
    if (!response.write(text)) {
      const patience = AbortSignal.any([signal, AbortSignal.timeout(STALL_MS)]);
      // One that does not read for so long is let go.
      await once(response, 'drain', { signal: patience }).catch(() => response.destroy());
    }
    if (ended) break;
  }
  response.end();
}

function itemBody(
  index: number,
  { text, id }: Item,
  result: ItemResult | undefined,
  record: BatchRecord,
): ItemBody {
  const base = { index, ...(id === undefined ? {} : { id }), text };
  if (result === undefined) {
    return {
      ...base,
      error: { code: `job_${record.status}`, detail: 'The job ended before this text had its turn' },
    };
  }
  if ('error' in result)
    return { ...base, error: { code: result.error, detail: problems[result.error].detail } };
  const [top] = result.labels;
  return {
    ...base,
    output: result.labels,
    ...(top ? { sentiment: top.label.toLowerCase(), confidence: top.score } : {}),
    ...(result.truncated ? { truncated: true } : {}),
  };
}
