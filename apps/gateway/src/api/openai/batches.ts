import { randomUUID } from 'node:crypto';
import type { embeddingsBody, moderationsBody, OpenAiRoutes } from '@sluice/contract';
import {
  isFinished,
  type JobRecord,
  type JobWebhook,
  type Ledger,
  type Log,
  names,
  type RedisClock,
} from '@sluice/shared';
import type { RedisMemory } from '../../admission/redisMemory.js';
import type { Files } from '../../files/files.js';
import type { HandlersOf } from '../../http/family.js';
import { fromRedis, Problem } from '../../http/problem.js';
import { jobIdOf } from '../../jobs/batchIds.js';
import { endJob } from '../../jobs/ending.js';
import { idempotencyKeyOf } from '../../jobs/idempotencyKey.js';
import type { createSubmitJob } from '../../jobs/submission.js';
import type { Catalog } from '../../models/catalog.js';
import type { WebhookFor } from '../../webhooks/webhookFor.js';
import { InvalidFile, readBatchInput } from './batchInput.js';
import { batchJobs } from './batchJobs.js';
import { type BatchDetails, type BatchJob, batchBody, batchOf } from './batchRecord.js';
import { pageOf } from './files.js';

interface Services {
  files: Files;
  ledger: Ledger;
  catalog: Catalog;
  clock: RedisClock;
  memory: RedisMemory;
  submitJob: ReturnType<typeof createSubmitJob>;
  webhookFor: WebhookFor;
  bodies: { embeddings: ReturnType<typeof embeddingsBody>; moderations: ReturnType<typeof moderationsBody> };
  maxTextChars: number;
  maxInputs: number;
  /** Maximum number of requests of a batch. */
  maxRequests: number;
  /** Maximum size of a line, as of the body of a request. */
  maxLineBytes: number;
  /** A job that is not finished after this long fails, in milliseconds. */
  jobTimeoutMs: number;
  log: Log;
}

type BatchRoutes = 'createBatch' | 'batches' | 'batch' | 'cancelBatch';

const noBatch = (id: string | undefined) =>
  new Problem('not_found', { detail: `Not Found: no batch of this key has the id "${id}"` });

/** Handlers of the routes about batches, which are jobs. */
export function batchHandlers(services: Services): Pick<HandlersOf<OpenAiRoutes>, BatchRoutes> {
  const { files, ledger, catalog, clock, memory, submitJob, webhookFor, jobTimeoutMs, log } = services;

  async function ownBatch(batchId: string, keyId: string): Promise<BatchJob> {
    const job = await fromRedis(ledger.read(jobIdOf(batchId)));
    const batch = job?.keyId === keyId ? batchOf(job) : undefined;
    if (batch === undefined) throw noBatch(batchId);
    return batch;
  }

  /** The job as it is now. @throws Problem `unavailable` if it has been erased already */
  async function read(jobId: string): Promise<JobRecord> {
    const job = await fromRedis(ledger.read(jobId));
    if (job === undefined) throw new Problem('unavailable');
    return job;
  }

  const shown = (batch: BatchJob) => batchBody(batch, jobTimeoutMs);

  return {
    async createBatch({ caller: { record: key }, body, request, response, signal }) {
      // Refuse early if possible.
      await memory.check(0);
      const idempotencyKey = idempotencyKeyOf(request);
      const file = await files.of(key.id, body.input_file_id);
      await catalog.refreshIfUnknown();
      const webhook = await webhookFor(key.webhookUrl, key, 'batch', '');
      const about = {
        family: 'openai' as const,
        endpoint: body.endpoint,
        inputFileId: file.id,
        metadata: body.metadata ?? null,
      };
      let jobId: string;
      try {
        const { model, items } = await readBatchInput(files.content(file), {
          ...services,
          endpoint: body.endpoint,
          signal,
          maxFileBytes: file.bytes,
        });
        const details: BatchDetails = { ...about, threshold: model.spec.threshold };
        const submitted = await submitJob({
          key,
          model,
          parameters: {},
          upload: {
            model: undefined,
            parameters: undefined,
            webhook: undefined,
            type: 'openai',
            items,
            close: async () => {
              await items.return(undefined);
            },
          },
          idempotencyKey,
          details,
          fingerprinted: { webhook, metadata: about.metadata, endpoint: about.endpoint },
          file: { record: names.file(file.id), ttlMs: files.ttlMs },
          signal,
          ...(webhook ? { webhook } : {}),
        }).finally(() => items.return(undefined));
        if (submitted.created) response.locals.texts = submitted.total;
        jobId = submitted.jobId;
      } catch (error) {
        if (!(error instanceof InvalidFile)) throw error;
        jobId = randomUUID();
        await recordRefused(jobId, key.id, error, about, webhook);
      }
      const job = await read(jobId);
      const batch = batchOf(job);
      if (batch === undefined) throw new Problem('idempotency_mismatch');
      return shown(batch);
    },

    async batches({ caller, query }) {
      const data: BatchJob[] = [];
      let isAfter = query.after === undefined;
      for await (const batch of batchJobs(ledger, caller.record.id)) {
        if (isAfter) data.push(batch);
        if (data.length > query.limit) break;
        isAfter ||= batch.job.id === jobIdOf(query.after ?? '');
      }
      if (!isAfter) throw noBatch(query.after);
      return pageOf(data.slice(0, query.limit).map(shown), data.length > query.limit);
    },

    async batch({ caller, params }) {
      return shown(await ownBatch(params.id, caller.record.id));
    },

    async cancelBatch({ caller, params }) {
      const batch = await ownBatch(params.id, caller.record.id);
      if (isFinished(batch.job.status)) return shown(batch);
      await endJob({ ledger, catalog, log }, batch.job, 'canceled', '');
      return shown({ ...batch, job: await read(batch.job.id) });
    },
  };

  /** Records a batch that failed because lines of its file are invalid. */
  async function recordRefused(
    jobId: string,
    keyId: string,
    { errors, lines }: InvalidFile,
    about: Omit<BatchDetails, 'threshold' | 'errors'>,
    webhook: JobWebhook | undefined,
  ): Promise<void> {
    const nowMs = clock.now();
    if (nowMs === undefined) throw new Problem('unavailable');
    const [first] = errors;
    const place = first?.line == null ? '' : `Line ${first.line}: `;
    await fromRedis(
      ledger.recordFailed(jobId, {
        keyId,
        modelId: '',
        reason: `The file is invalid. ${place}${first?.message ?? ''}`,
        details: { ...about, threshold: 0, errors: [...errors] } satisfies BatchDetails,
        webhook,
        nowMs,
      }),
    );
    log.info({ job_id: jobId, key_id: keyId, lines, errors: errors.length }, 'Batch refused: invalid lines');
  }
}
