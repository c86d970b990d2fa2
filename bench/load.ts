import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import * as z from 'zod';

/** Result of a load; latencies in milliseconds. */
const loadSchema = z.object({
  requests: z.int(),
  seconds: z.number(),
  /** Responses other than 2xx, and broken connections. */
  failed: z.int(),
  p50: z.number(),
  p99: z.number(),
});
export type Load = z.infer<typeof loadSchema>;

const script = fileURLToPath(new URL('load.lua', import.meta.url));

/** URL and key of a server. */
export interface Endpoint {
  url: string;
  key: string;
}

/**
 * Runs clients that each send the next sentence after the previous response (wrk, one thread).
 * @param sentences a file with one sentence per line
 * @throws Error if wrk fails or a response is not 2xx
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

/** Runs a program; resolves to its standard output. */
async function capture(program: string, args: readonly string[]): Promise<string> {
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
