import type { JobBody } from '@sluice/contract';
import type { BatchRecord } from '@sluice/shared';

/** The record of a batch as clients see it. */
export function jobBody(record: BatchRecord): JobBody {
  const time = (ms: number | undefined) => (ms === undefined ? null : new Date(ms).toISOString());
  return {
    job_id: record.id,
    model: record.model,
    revision: record.revision,
    status: record.status,
    total: record.total,
    completed: record.completed,
    failed: record.failed,
    progress: (record.completed + record.failed) / record.total,
    created_at: new Date(record.createdAtMs).toISOString(),
    started_at: time(record.startedAtMs),
    finished_at: time(record.finishedAtMs),
    expires_at: time(record.expiresAtMs),
    results_url: `/jobs/${record.id}/results`,
    error: record.error ?? null,
  };
}
