import { promisify } from 'node:util';
import { gunzip, gzip } from 'node:zlib';
import type { Redis } from 'ioredis';
import { names } from '../redis/names.js';

/** A tokenizer that no worker renews for this long expires, in milliseconds. */
const TTL_MS = 3_600_000;

const pack = promisify(gzip);
const unpack = promisify(gunzip);

/**
 * Stores the tokenizer of a model for the gateways, or renews it if it is there.
 * @param read returns the content of the model's tokenizer.json
 * @throws what the Redis connection throws
 */
export async function shareTokenizer(
  redis: Redis,
  spec: { id: string; hash: string },
  read: () => Promise<Buffer>,
): Promise<void> {
  const name = names.tokenizer(spec);
  if ((await redis.pexpire(name, TTL_MS)) === 1) return;
  await redis.set(name, await pack(await read()), 'PX', TTL_MS);
}

/**
 * The content of a model's tokenizer.json, as its workers share it; undefined while none has.
 * @throws what the Redis connection throws
 */
export async function sharedTokenizer(
  redis: Redis,
  spec: { id: string; hash: string },
): Promise<string | undefined> {
  const packed = await redis.getBuffer(names.tokenizer(spec));
  return packed === null ? undefined : (await unpack(packed)).toString('utf8');
}
