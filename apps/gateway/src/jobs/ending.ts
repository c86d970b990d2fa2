import { applyEnding, type Ending, type JobRef, type Ledger, type Log, logEnded } from '@sluice/shared';
import { fromRedis } from '../http/problem.js';
import type { Catalog } from '../models/catalog.js';

/**
 * Ends an unfinished job and updates the queue of its model, without waiting for the queue.
 * @param reason why it failed, or who canceled it; may be empty for a canceled job
 * @param options see {@link Ledger.end}
 * @throws Problem `unavailable` or `storage_full`
 */
export async function endJob(
  { ledger, catalog, log }: { ledger: Ledger; catalog: Catalog; log: Log },
  job: JobRef,
  status: 'failed' | 'canceled',
  reason: string,
  options: { unlessReplayed?: boolean } = {},
): Promise<Ending> {
  const ending = await fromRedis(
    ledger.end(job, status, reason, catalog.maxChunksInFlight(job.modelId), options),
  );
  if (ending.ended) void logEnded(ledger, job.id, log);
  // The record says that the job has ended, so workers drop what stays in the queue.
  const queue = catalog.find(job.modelId)?.bulkQueue;
  if (queue) {
    applyEnding(queue, ending).catch((err: unknown) =>
      log.debug({ err, job_id: job.id }, 'Could not remove the chunks of an ended job from the queue'),
    );
  }
  return ending;
}
