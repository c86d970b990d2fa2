import { Sluice } from '@sluice/client';
import type { Endpoint } from './load.js';

/** Hands over texts as one batch; resolves to texts a second, from the upload's first byte to the last result stored. */
export async function batchPerSecond({ url, key }: Endpoint, texts: readonly string[]): Promise<number> {
  const sluice = new Sluice({ url, apiKey: key });
  const startMs = Date.now();
  const { job_id } = await sluice.batch(texts);
  for await (const { status, completed, finished_at } of sluice.events(job_id)) {
    if (status !== 'completed' || completed !== texts.length || finished_at === null) continue;
    return (1000 * texts.length) / (Date.parse(finished_at) - startMs);
  }
  throw new Error('The batch did not complete');
}

/** Hands over a batch and cancels it when something else is done. */
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
