import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';

/** What a load gave; latencies in milliseconds. */
export const loadSchema = z.object({
  requests: z.int(),
  seconds: z.number(),
  /** Answers that are no 2xx, and connections that broke. */
  failed: z.int(),
  p50: z.number(),
  p99: z.number(),
});
export type Load = z.infer<typeof loadSchema>;

const script = fileURLToPath(new URL('load.lua', import.meta.url));

/** Where and as whom to ask. */
export interface Endpoint {
  url: string;
  key: string;
}

/**
 * Clients that each send the next sentence when they have the last answer (wrk, one thread).
 * @param sentences a file with one a line
 * @throws Error when wrk fails or an answer is no 2xx
 */
export async function load(
  { url, key }: Endpoint,
  sentences: string,
  { clients, seconds }: { clients: number; seconds: number },
): Promise<Load> {
  const args = ['-t1', `-c${clients}`, `-d${seconds}s`, '--timeout', '10s', '-s', script];
  const output = await capture('wrk', [...args, `${url}/predict`, '--', sentences, 'X-API-Key', key]);
  const result = loadSchema.parse(JSON.parse(/^RESULT (.*)$/m.exec(output)?.[1] ?? 'null'));
  if (result.failed > 0) throw new Error(`${result.failed} of ${result.requests} requests to ${url} failed`);
  return result;
}

/** Runs a program to its end; resolves to what it wrote to standard output. */
export async function capture(program: string, args: readonly string[]): Promise<string> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (part: string) => {
    output += part;
  });
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) throw new Error(`${program} ended with ${code}`);
  return output;
}
