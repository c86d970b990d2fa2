import type { Ledger } from '@sluice/shared';
import { fromRedis } from '../../http/problem.js';
import { type BatchJob, batchOf } from './batchRecord.js';

/** Jobs that are read at once. */
const JOBS_PER_READ = 200;

/** The batches of a key among its jobs, newest first. @throws Problem `unavailable` */
export async function* batchJobs(ledger: Ledger, keyId: string): AsyncGenerator<BatchJob> {
  for (let offset = 0; ; offset += JOBS_PER_READ) {
    const { records, more } = await fromRedis(ledger.lists.ofKey(keyId, offset, JOBS_PER_READ));
    for (const job of records) {
      const batch = batchOf(job);
      if (batch) yield batch;
    }
    if (!more) return;
  }
}
