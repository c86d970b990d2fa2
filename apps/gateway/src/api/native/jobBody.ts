import type { JobBody } from '@sluice/contract';
import type { JobRecord } from '@sluice/shared';

/** The record of a job as clients see it. */
export function jobBody(job: JobRecord): JobBody {
  const time = (ms: number | undefined) => (ms === undefined ? null : new Date(ms).toISOString());
  return {
    job_id: job.id,
    model: job.modelId,
    revision: job.revision,
    status: job.status,
    total: job.total,
    completed: job.completed,
    failed: job.failed,
    // A job that failed before it had items has made no progress.
    progress: job.total === 0 ? 0 : (job.completed + job.failed) / job.total,
    created_at: new Date(job.createdAtMs).toISOString(),
    started_at: time(job.startedAtMs),
    finished_at: time(job.finishedAtMs),
    expires_at: time(job.expiresAtMs),
    results_url: `/jobs/${job.id}/results`,
    error: job.error ?? null,
  };
}
