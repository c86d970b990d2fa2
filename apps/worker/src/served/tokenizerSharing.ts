import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Log, type ModelSpec, shareTokenizer } from '@sluice/shared';
import type { Redis } from 'ioredis';

/** How often it is renewed, or stored again after Redis lost it, in milliseconds. */
const RENEW_EVERY_MS = 30_000;

/**
 * Keeps the tokenizer of a served model in Redis, so that gateways can count tokens as the model does.
 * @param folder of the model
 * @returns a function that stops it
 */
export async function startTokenizerSharing(
  redis: Redis,
  spec: ModelSpec,
  folder: string,
  log: Log,
): Promise<() => void> {
  const share = () =>
    shareTokenizer(redis, spec, () => readFile(join(folder, 'tokenizer.json'))).catch((err: unknown) =>
      log.debug({ err }, 'Could not share the tokenizer'),
    );
  await share();
  const timer = setInterval(() => void share(), RENEW_EVERY_MS);
  return () => clearInterval(timer);
}
