import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Sluice } from '@sluice/client';
import { json, readSettings } from '@sluice/shared';
import type { Command } from 'commander';
import * as z from 'zod';
import { CliError, UsageError } from './cliError.js';
import { readKeyFile } from './keyFile.js';

type Env = Readonly<Record<string, string | undefined>>;

/** Prints a result: as JSON with `--json`, otherwise as text for people. */
export function print(command: Command, result: unknown, text: () => string): void {
  process.stdout.write(`${wantsJson(command) ? JSON.stringify(result) : text()}\n`);
}

/** How the user runs this command, for hints. */
export const commandName = (): string =>
  process.env.npm_lifecycle_event === 'sluice' ? 'npm run -s sluice --' : 'sluice';

export const wantsJson = (command: Command): boolean => Boolean(command.optsWithGlobals().json);

/** What a running `npm start` writes about itself. */
const runtimeSchema = json(
  z.object({
    redisUrl: z.string(),
    url: z.string().optional(),
    keyFile: z.string().optional(),
    adminUrl: z.string().optional(),
  }),
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
  throw new CliError(
    `runtime.json in ${folder} is malformed. Restart Sluice, or set SLUICE_URL, SLUICE_API_KEY or REDIS_URL`,
  );
}

/**
 * The admin port of a gateway and its token: `SLUICE_ADMIN_URL` and `ADMIN_TOKEN`, or those of the `npm start` in this folder.
 * @throws CliError if there is no token; UsageError for an invalid URL
 */
export async function adminPort(env: Env = process.env): Promise<{ url: string; token: string }> {
  const { DATA_DIR: folder } = readSettings(env);
  const runtime = await readRuntime(folder);
  const ownUrl = runtime?.adminUrl ?? 'http://127.0.0.1:9090';
  const url = env.SLUICE_ADMIN_URL || ownUrl;
  if (!isHttpUrl(url))
    throw new UsageError('SLUICE_ADMIN_URL: not a valid URL that begins with http:// or https://');
  const stored = () =>
    readFile(join(folder, 'admin-token'), 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return '';
      throw error;
    });
  // The stored token is for the server of this folder only.
  const token = env.ADMIN_TOKEN || (url === ownUrl ? (await stored()).trim() : '');
  if (!token)
    throw new CliError(
      env.SLUICE_ADMIN_URL ? 'Set ADMIN_TOKEN' : 'Set ADMIN_TOKEN, or start Sluice in this folder first',
    );
  return { url, token };
}

const isHttpUrl = (url: string) => URL.canParse(url) && /^https?:$/.test(new URL(url).protocol);

/** `REDIS_URL`, or the Redis of the `npm start` in this folder, or the default. */
export async function redisUrl(env: Env = process.env): Promise<string> {
  const settings = readSettings(env);
  if (env.REDIS_URL) return settings.REDIS_URL;
  return (await readRuntime(settings.DATA_DIR))?.redisUrl ?? settings.REDIS_URL;
}

/**
 * A client for `SLUICE_URL` with `SLUICE_API_KEY`; the `npm start` in this folder is used for what is not set.
 * @throws CliError if there is no key; UsageError for an invalid URL
 */
export async function connect(env: Env = process.env): Promise<Sluice> {
  const runtime = await readRuntime(readSettings(env).DATA_DIR);
  const url = env.SLUICE_URL || runtime?.url || 'http://localhost:8000';
  const apiKey =
    env.SLUICE_API_KEY || (runtime?.keyFile === undefined ? undefined : await readKeyFile(runtime.keyFile));
  if (!apiKey) throw new CliError('Set SLUICE_API_KEY, or run npm start in this folder first');
  if (!isHttpUrl(url))
    throw new UsageError('SLUICE_URL: not a valid URL that begins with http:// or https://');
  return new Sluice({
    url,
    apiKey,
    onRetry: (error, waitMs) =>
      process.stderr.write(
        `sluice: ${error.message.replace(/\.$/, '')}; trying again in ${Math.ceil(waitMs / 1000)} s\n`,
      ),
  });
}
