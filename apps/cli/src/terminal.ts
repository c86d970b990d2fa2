import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Sluice } from '@sluice/client';
import { json, readSettings } from '@sluice/shared';
import type { Command } from 'commander';
import { z } from 'zod';
import { CliError } from './cliError.js';
import { readKeyFile } from './keyFile.js';

type Env = Readonly<Record<string, string | undefined>>;

/** Prints a result: with `--json` as JSON alone, else as the text for people. */
export function print(command: Command, result: unknown, text: () => string): void {
  process.stdout.write(`${wantsJson(command) ? JSON.stringify(result) : text()}\n`);
}

export const wantsJson = (command: Command): boolean => Boolean(command.optsWithGlobals().json);

/** What the `npm start` that runs in this folder tells. */
const runtimeSchema = json(
  z.object({ redisUrl: z.string(), url: z.string().optional(), keyFile: z.string().optional() }),
);

async function readRuntime(folder: string): Promise<z.infer<typeof runtimeSchema> | undefined> {
  let text: string;
  try {
    text = await readFile(join(folder, 'runtime.json'), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  const runtime = runtimeSchema.safeParse(text);
  if (runtime.success) return runtime.data;
  throw new CliError(`runtime.json in ${folder} cannot be read: start again, or set what you need yourself`);
}

/** `REDIS_URL`, else that of the `npm start` which runs in this folder, else the default. */
export async function redisUrl(env: Env = process.env): Promise<string> {
  const settings = readSettings(env);
  if (env.REDIS_URL) return settings.REDIS_URL;
  return (await readRuntime(settings.DATA_DIR))?.redisUrl ?? settings.REDIS_URL;
}

/**
 * A client for `SLUICE_URL` with `SLUICE_API_KEY`, each else from the `npm start` which runs in this folder.
 * @throws CliError when there is no key
 */
export async function connect(env: Env = process.env): Promise<Sluice> {
  const runtime = await readRuntime(readSettings(env).DATA_DIR);
  const url = env.SLUICE_URL || runtime?.url || 'http://localhost:8000';
  const apiKey =
    env.SLUICE_API_KEY || (runtime?.keyFile === undefined ? undefined : await readKeyFile(runtime.keyFile));
  if (!apiKey) throw new CliError('Set SLUICE_API_KEY, or run npm start in this folder first');
  return new Sluice({ url, apiKey });
}
