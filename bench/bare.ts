import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import * as z from 'zod';

const script = fileURLToPath(new URL('bare.mjs', import.meta.url));
const resultSchema = z.object({
  texts: z.int(),
  seconds: z.number(),
  processorMs: z.number(),
  p50: z.number(),
  p99: z.number(),
});

/**
 * Runs the bare pipeline in several processes at once.
 * @param size texts per call: with 1 they keep their order, with more they are sorted by length
 * @returns texts/s of all processes together, processor time of a text in µs, and the median latency of a call in
 *   milliseconds
 */
export async function bare(
  sentences: string,
  { processes, size, seconds }: { processes: number; size: number; seconds: number },
): Promise<{ perSecond: number; processorUs: number; p50: number }> {
  const children = Array.from({ length: processes }, () =>
    fork(script, [sentences, String(seconds), String(size)], {
      execArgv: [],
      stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
    }),
  );
  const outputs = children.map(async (child) => {
    let output = '';
    for await (const part of child.stdout ?? []) output += part;
    return resultSchema.parse(JSON.parse(output));
  });
  await Promise.all(children.map((child) => once(child, 'message')));
  for (const child of children) child.send('go');
  const results = await Promise.all(outputs);
  return {
    perSecond: results.reduce((sum, { texts, seconds: took }) => sum + texts / took, 0),
    processorUs:
      (1000 * results.reduce((sum, { processorMs }) => sum + processorMs, 0)) /
      results.reduce((sum, { texts }) => sum + texts, 0),
    p50: Math.max(...results.map(({ p50 }) => p50)),
  };
}
