import { Sluice } from '@sluice/client';
import type { Endpoint } from './load.js';

/** Submits texts as one job; resolves to texts per second, from the first byte of the upload to the last stored result. */
export async function batchPerSecond({ url, key }: Endpoint, texts: readonly string[]): Promise<number> {
  const sluice = new Sluice({ url, apiKey: key });
  const startMs = Date.now();
  const { job_id } = await sluice.batch(texts);
  for await (const { status, completed, finished_at } of sluice.events(job_id)) {
    if (status !== 'completed' || completed !== texts.length || finished_at === null) continue;
    return (1000 * texts.length) / (Date.parse(finished_at) - startMs);
  }
  throw new Error('The job did not complete');
}

/** Submits a job, and cancels it when some other work is done. */
export async function during<T>(
  { url, key }: Endpoint,
  texts: readonly string[],
  work: () => Promise<T>,
): Promise<T> {
  const sluice = new Sluice({ url, apiKey: key });
  const { job_id } = await sluice.batch(texts);
  try {
    return await work();
  } finally {
    await sluice.end(job_id);
  }
}
