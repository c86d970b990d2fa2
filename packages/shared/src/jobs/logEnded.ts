import type { Log } from '../log.js';
import type { Ledger } from './ledger.js';

/** Logs how a job has ended. The process that ended it calls this, so there is one line for each job. */
export async function logEnded(ledger: Ledger, jobId: string, log: Log): Promise<void> {
  try {
    const job = await ledger.read(jobId);
    // A job with a record of another version, or one that has been erased since.
    if (job === undefined) return;
    log.info(
      {
        job_id: jobId,
        key_id: job.keyId,
        // The log of a model's worker names it already.
        ...('model' in log.bindings() ? {} : { model: job.modelId }),
        status: job.status,
        total: job.total,
        completed: job.completed,
        failed: job.failed,
        seconds: ((job.finishedAtMs ?? job.createdAtMs) - job.createdAtMs) / 1000,
        ...(job.error === undefined ? {} : { error: job.error }),
      },
      'Job ended',
    );
  } catch (err) {
    log.debug({ err, job_id: jobId }, 'Could not read an ended job');
  }
}
