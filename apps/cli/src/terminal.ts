import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { readSettings } from '@sluice/shared';
import type { Command } from 'commander';
import { z } from 'zod';

/** Something did not work; said in one line, exit status 1. */
export class CliError extends Error {
  override name = 'CliError';
}

/** Prints a result: with `--json` as JSON alone, else as the text for people. */
export function print(command: Command, result: unknown, text: () => string): void {
  process.stdout.write(`${command.optsWithGlobals().json ? JSON.stringify(result) : text()}\n`);
}

const runtimeSchema = z.object({ redisUrl: z.string() });

/** `REDIS_URL`, else that of the `npm start` which runs in this folder, else the default. */
export async function redisUrl(
  env: Readonly<Record<string, string | undefined>> = process.env,
): Promise<string> {
  const settings = readSettings(env);
  if (env.REDIS_URL) return settings.REDIS_URL;
  try {
    return runtimeSchema.parse(JSON.parse(await readFile(join(settings.DATA_DIR, 'runtime.json'), 'utf8')))
      .redisUrl;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return settings.REDIS_URL;
    throw new CliError(`runtime.json in ${settings.DATA_DIR} cannot be read: start again, or set REDIS_URL`, {
      cause: error,
    });
  }
}
