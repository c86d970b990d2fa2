import { batchEndpointSchema, type OpenAiBatch } from '@sluice/contract';
import { isFinished, type JobRecord } from '@sluice/shared';
import * as z from 'zod';
import { batchIdOf, outputIdOf } from '../../jobs/batchIds.js';
import { NOT_IN_TIME } from '../../jobs/reasons.js';

/** What the OpenAI family keeps with a job. */
const detailsSchema = z.object({
  family: z.literal('openai'),
  endpoint: batchEndpointSchema,
  inputFileId: z.string(),
  metadata: z.record(z.string(), z.string()).nullable(),
  /** Of a classifier: the minimum at which moderations flag a category. */
  threshold: z.number(),
  /** Lines that were refused; of a batch that failed at once. */
  errors: z
    .array(
      z.object({
        code: z.string(),
        line: z.int().nullable(),
        message: z.string(),
        param: z.string().nullable(),
      }),
    )
    .exactOptional(),
});
export type BatchDetails = z.infer<typeof detailsSchema>;

/** A job that is an OpenAI batch. */
export interface BatchJob {
  job: JobRecord;
  details: BatchDetails;
}

/** Undefined for a job that another family created. */
export function batchOf(job: JobRecord): BatchJob | undefined {
  const details = detailsSchema.safeParse(job.details).data;
  return details && { job, details };
}

function statusOf({ status, error }: JobRecord): OpenAiBatch['status'] {
  switch (status) {
    case 'queued':
    case 'running':
      return 'in_progress';
    case 'canceled':
      return 'cancelled';
    case 'failed':
      return error === NOT_IN_TIME ? 'expired' : 'failed';
    case 'completed':
      return 'completed';
  }
}

/** Unix seconds. */
export const unixSeconds = (ms: number): number => Math.floor(ms / 1000);

/** Requests of a job that ended without an answer to them. */
const unanswered = (job: JobRecord) => (isFinished(job.status) ? job.total - job.completed - job.failed : 0);

/** Whether an ended batch has requests with an answer, or others. */
export const hasOutput = (job: JobRecord) => isFinished(job.status) && job.completed > 0;
export const hasErrors = (job: JobRecord) => isFinished(job.status) && job.failed + unanswered(job) > 0;

/**
 * A batch as OpenAI shows it.
 * @param timeoutMs after which an unfinished job fails
 */
export function batchBody({ job, details }: BatchJob, timeoutMs: number): OpenAiBatch {
  const status = statusOf(job);
  const finished = job.finishedAtMs === undefined ? null : unixSeconds(job.finishedAtMs);
  const finishedAs = (wanted: OpenAiBatch['status']) => (status === wanted ? finished : null);
  const isRefused = details.errors !== undefined;
  return {
    id: batchIdOf(job.id),
    object: 'batch',
    endpoint: details.endpoint,
    model: job.modelId,
    errors: isRefused ? { object: 'list', data: details.errors ?? [] } : null,
    input_file_id: details.inputFileId,
    completion_window: '24h',
    status,
    output_file_id: hasOutput(job) ? outputIdOf(job.id, 'output') : null,
    error_file_id: hasErrors(job) ? outputIdOf(job.id, 'errors') : null,
    created_at: unixSeconds(job.createdAtMs),
    in_progress_at: isRefused ? null : unixSeconds(job.startedAtMs ?? job.createdAtMs),
    expires_at: unixSeconds(job.createdAtMs + timeoutMs),
    finalizing_at: null,
    completed_at: finishedAs('completed'),
    failed_at: finishedAs('failed'),
    expired_at: finishedAs('expired'),
    cancelling_at: finishedAs('cancelled'),
    cancelled_at: finishedAs('cancelled'),
    request_counts: { total: job.total, completed: job.completed, failed: job.failed },
    metadata: details.metadata,
  };
}
