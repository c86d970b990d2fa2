import { cursorOf, DEFAULT_PAGE, offsetOf } from '@sluice/contract';
import { isFinished, type JobRecord, type KeyRecord, type Ledger, type Log } from '@sluice/shared';
import { fromRedis, Problem } from '../../http/problem.js';
import type { Changes } from '../../jobs/changes.js';
import { endJob } from '../../jobs/ending.js';
import type { StreamLimit } from '../../limits/streamLimit.js';
import type { Catalog } from '../../models/catalog.js';
import type { NativeHandlers } from './handlers.js';
import { jobBody } from './jobBody.js';
import { readResults, streamResults } from './results.js';

interface Services {
  ledger: Ledger;
  catalog: Catalog;
  changes: Changes;
  streamLimit: StreamLimit;
  draining: () => boolean;
  log: Log;
}

/** After this many seconds a client may ask again about an unfinished job. */
const RETRY_AFTER_SECONDS = '1';

/** Handlers of the routes about jobs. A job does not exist for any key but the one that created it. */
export function jobRoutes(
  services: Services,
): Pick<NativeHandlers, 'job' | 'jobs' | 'results' | 'events' | 'endJob' | 'cancelJob'> {
  const { ledger, catalog, changes, streamLimit, draining } = services;

  async function ownJob(jobId: string, { id: keyId }: KeyRecord): Promise<JobRecord> {
    const job = await fromRedis(ledger.read(jobId));
    if (job?.keyId !== keyId)
      throw new Problem('not_found', { detail: 'Not Found: no job of this key has this id' });
    return job;
  }

  async function cancel(job: JobRecord, key: KeyRecord) {
    await endJob(services, job, 'canceled', '');
    return jobBody(await ownJob(job.id, key));
  }

  return {
    async job({ caller, params, response }) {
      const job = await ownJob(params.id, caller.record);
      if (!isFinished(job.status)) response.set('Retry-After', RETRY_AFTER_SECONDS);
      return jobBody(job);
    },

    async jobs({ caller, query: { limit, cursor } }) {
      const offset = offsetOf(cursor);
      const { records, more } = await fromRedis(ledger.lists.ofKey(caller.record.id, offset, limit));
      return { jobs: records.map(jobBody), next_cursor: more ? cursorOf(offset + limit) : null };
    },

    async results({ caller, params, query, request, response, signal }) {
      const { limit, cursor, partial, encoding_format: format } = query;
      const from = offsetOf(cursor);
      const job = await ownJob(params.id, caller.record);
      const finished = isFinished(job.status);
      if (!finished) response.set('Retry-After', RETRY_AFTER_SECONDS);
      if (!finished && !partial) throw new Problem('results_not_ready');
      const isStream =
        request.accepts(['application/json', 'application/x-ndjson']) === 'application/x-ndjson';
      if (request.method === 'HEAD') {
        response.type(isStream ? 'application/x-ndjson' : 'application/json').end();
        return undefined;
      }
      const starts = await fromRedis(ledger.starts(job.id));
      const task = catalog.find(job.modelId)?.spec.task;
      // Of a model that is not configured any more, the shape of the output tells.
      const isClassifier = task === undefined || task === 'text-classification';
      const end = Math.min(job.total, from + (limit ?? (isStream ? job.total : DEFAULT_PAGE)));
      if (isStream) {
        await streamResults(ledger, job, starts, { from, end, format, isClassifier }, response, signal);
        return undefined;
      }
      const { results } = await readResults(ledger, job, starts, { from, end, format, isClassifier });
      const next = from + results.length;
      return { results, next_cursor: next < job.total ? cursorOf(next) : null };
    },

    async events({ caller, params, request, response }) {
      if (draining()) throw new Problem('shutting_down');
      await ownJob(params.id, caller.record);
      const isHead = request.method === 'HEAD';
      const close = isHead ? () => {} : await streamLimit.open(caller.record.id);
      response.status(200).set({
        'Content-Type': 'text/event-stream',
        'Cache-Control': 'no-store',
        'X-Accel-Buffering': 'no',
      });
      response.flushHeaders();
      if (isHead) response.end();
      else await changes.follow(params.id, response).finally(close);
      return undefined;
    },

    async cancelJob({ caller, params }) {
      const job = await ownJob(params.id, caller.record);
      return isFinished(job.status) ? jobBody(job) : cancel(job, caller.record);
    },

    async endJob({ caller, params, response }) {
      const job = await ownJob(params.id, caller.record);
      if (!isFinished(job.status)) return cancel(job, caller.record);
      await fromRedis(ledger.erase(job.id, job.keyId));
      response.status(204).end();
      return undefined;
    },
  };
}
