import type { Redis } from 'ioredis';
import * as z from 'zod';

/** A key of Redis with its value; parts of values are in base64, because some are binary. */
export const savedSchema = z.object({
  name: z.string(),
  type: z.enum(['string', 'hash', 'list', 'zset', 'set', 'stream']),
  /** Of a hash: fields and values in turn; of a sorted set: members and scores. */
  parts: z.array(z.string()),
  /** In milliseconds; absent if it does not expire. */
  ttlMs: z.number().optional(),
});
type Saved = z.infer<typeof savedSchema>;

/** Reads the Redis keys for whose names `wanted` returns true. */
export async function readAll(redis: Redis, wanted: (name: string) => boolean): Promise<Saved[]> {
  const all: Saved[] = [];
  for (const name of (await redis.keys('*')).filter(wanted).toSorted()) {
    const type = savedSchema.shape.type.parse(await redis.type(name));
    const ttlMs = await redis.pttl(name);
    const parts = (await partsOf(redis, name, type)).map((part) => part.toString('base64'));
    all.push({ name, type, parts, ...(ttlMs > 0 ? { ttlMs } : {}) });
  }
  return all;
}

async function partsOf(redis: Redis, name: string, type: Saved['type']): Promise<Buffer[]> {
  switch (type) {
    case 'string':
      return [(await redis.getBuffer(name)) ?? Buffer.alloc(0)];
    case 'hash':
      return Object.entries(await redis.hgetallBuffer(name)).flatMap(([field, value]) => [
        Buffer.from(field),
        value,
      ]);
    case 'list':
      return redis.lrangeBuffer(name, 0, -1);
    case 'set':
      return redis.smembersBuffer(name);
    case 'zset':
      return redis.zrangeBuffer(name, '0', '-1', 'WITHSCORES');
    case 'stream':
      // The entries of streams are not recorded.
      return [];
  }
}

/**
 * Writes keys as if they had been recorded now: timestamps within 7 days of the recording are moved by the age of the recording.
 * @param recordedAtMs when they were recorded, in milliseconds since the epoch
 */
export async function writeAll(redis: Redis, all: readonly Saved[], recordedAtMs: number): Promise<void> {
  const agoMs = Date.now() - recordedAtMs;
  for (const { name, type, parts, ttlMs } of all) {
    const values = parts.map((part) => moved(Buffer.from(part, 'base64'), recordedAtMs, agoMs));
    const pairs = Array.from(
      { length: values.length / 2 },
      (_, i) => [values[2 * i], values[2 * i + 1]] as const,
    );
    if (type === 'string') await redis.set(name, values[0] ?? '');
    else if (type === 'list') await redis.rpush(name, ...values);
    else if (type === 'set') await redis.sadd(name, ...values);
    else if (type === 'hash')
      for (const [field = '', value = ''] of pairs) await redis.hset(name, field.toString(), value);
    else if (type === 'zset')
      for (const [member = '', score = ''] of pairs) await redis.zadd(name, Number(score.toString()), member);
    else await redis.xadd(name, '*', 'opened', '1');
    if (ttlMs !== undefined) await redis.pexpire(name, Math.round(ttlMs));
  }
}

/** A number counts as a timestamp only if it differs from the time of the recording by less than this, in milliseconds. */
const NEAR_MS = 7 * 24 * 3_600_000;

/** A value whose times are moved. A binary value is left as it is. */
function moved(value: Buffer, recordedAtMs: number, agoMs: number): Buffer {
  const text = value.toString();
  if (!Buffer.from(text).equals(value)) return value;
  return Buffer.from(
    text.replace(/(?<![\w.-])\d{13}(?:\.\d+)?(?![\w-])/g, (number) =>
      Math.abs(Number(number) - recordedAtMs) < NEAR_MS ? String(Number(number) + agoMs) : number,
    ),
  );
}
