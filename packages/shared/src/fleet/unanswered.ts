import type { Redis } from 'ioredis';
import * as z from 'zod';
import { json } from '../json.js';
import { type Lane, names } from '../redis/names.js';

/** A gateway's count is valid for this long, in milliseconds; a gateway that died leaves its items in the queue. */
const COUNT_TTL_MS = 5_000;
const countSchema = json(z.object({ rows: z.int().min(0), untilMs: z.number(), hash: z.string() }));

/** What the other gateways reported. */
export interface OtherGateways {
  /** Gateways with a valid count. */
  gateways: number;
  /** Their unanswered rows. */
  rows: number;
}

/**
 * Reports how many rows of a model's lane are unanswered at this gateway, and reads the counts of the others. The report also
 * announces the configuration of the model.
 * @param hash of this gateway's spec of the model
 * @param nowMs Redis's time
 */
export async function shareUnanswered(
  redis: Redis,
  { id: modelId, hash }: { id: string; hash: string },
  lane: Lane,
  { gatewayId, rows, nowMs }: { gatewayId: string; rows: number; nowMs: number },
): Promise<OtherGateways> {
  const key = names.unanswered(modelId, lane);
  await redis
    .multi()
    .hset(key, gatewayId, JSON.stringify({ rows, untilMs: nowMs + COUNT_TTL_MS, hash }))
    .pexpire(key, COUNT_TTL_MS)
    .del(names.missingSince(modelId, hash))
    .exec();
  const others = { gateways: 0, rows: 0 };
  const expired: string[] = [];
  for (const [id, text] of Object.entries(await redis.hgetall(key))) {
    const count = countSchema.safeParse(text);
    // Another version may write another format.
    if (id === gatewayId || !count.success) continue;
    if (count.data.untilMs < nowMs) {
      expired.push(id);
      continue;
    }
    // It uses other workers.
    if (count.data.hash !== hash) continue;
    others.gateways++;
    others.rows += count.data.rows;
  }
  if (expired.length > 0) await redis.hdel(key, ...expired);
  return others;
}

/** Removes the count of a gateway that ends. */
export async function removeUnanswered(
  redis: Redis,
  modelId: string,
  lane: Lane,
  gatewayId: string,
): Promise<void> {
  await redis.hdel(names.unanswered(modelId, lane), gatewayId);
}

/** The hashes of a model's spec that the live gateways have. */
export async function gatewayHashes(redis: Redis, modelId: string, nowMs: number): Promise<Set<string>> {
  const counts = await redis.hvals(names.unanswered(modelId, 'interactive'));
  return new Set(
    counts.flatMap((text) => {
      const count = countSchema.safeParse(text);
      return count.success && count.data.untilMs >= nowMs ? [count.data.hash] : [];
    }),
  );
}
