import type { Redis } from 'ioredis';
import { z } from 'zod';
import { json } from '../json.js';
import { redisTimeMs } from '../redis/clock.js';
import { names } from '../redis/names.js';

/** A worker announces itself this often, in milliseconds. */
export const BEAT_EVERY_MS = 1_000;
/** An announcement that is not renewed for this long is gone, in milliseconds. */
export const BEAT_TTL_MS = 3_000;

/** What a worker that is ready says of itself. */
export const heartbeatSchema = z.object({
  v: z.literal(1),
  workerId: z.string().min(1),
  model: z.string().min(1),
  /** Model processes. */
  processes: z.int().min(1),
  /** How many texts it answers in a second when it has enough of them, lately. */
  textsPerSecond: z.number().positive().optional(),
  facts: z
    .object({
      labels: z.array(z.string()),
      maxTokens: z.int().min(1),
      revision: z.string(),
      dtype: z.string(),
      runtime: z.string(),
      batching: z.boolean(),
    })
    .optional(),
});
const heartbeatJson = json(heartbeatSchema);
export type Heartbeat = z.infer<typeof heartbeatSchema>;

/** Announces a live worker until {@link BEAT_TTL_MS} from now. */
export async function announce(redis: Redis, beat: Heartbeat): Promise<void> {
  const nowMs = Math.round(await redisTimeMs(redis));
  await redis
    .multi()
    .set(names.worker(beat.workerId), JSON.stringify(beat), 'PX', BEAT_TTL_MS)
    .zadd(names.workers, nowMs + BEAT_TTL_MS, beat.workerId)
    .zremrangebyscore(names.workers, '-inf', `(${nowMs}`)
    .pexpire(names.workers, BEAT_TTL_MS)
    .exec();
}

/** Takes a worker's announcement back, so that no gateway counts on it. */
export async function withdraw(redis: Redis, workerId: string): Promise<void> {
  await redis.multi().del(names.worker(workerId)).zrem(names.workers, workerId).exec();
}

/** The workers that are alive now. */
export async function liveWorkers(redis: Redis): Promise<Heartbeat[]> {
  const ids = await redis.zrange(names.workers, '0', '-1');
  if (ids.length === 0) return [];
  const beats = await redis.mget(ids.map(names.worker));
  return beats.flatMap((text) => {
    // A worker of another version speaks to gateways of its own.
    const beat = heartbeatJson.safeParse(text);
    return beat.success ? [beat.data] : [];
  });
}

/** What a gateway says of its waiting texts holds for so long, in milliseconds: one that died leaves them in the queue. */
const WAITING_TTL_MS = 5_000;
const waitingSchema = json(z.object({ texts: z.int().min(0), untilMs: z.number() }));

/** What the other gateways say. */
export interface Elsewhere {
  /** Gateways that said something lately. */
  gateways: number;
  /** Texts that wait at them for their answers. */
  texts: number;
}

/**
 * Tells the other gateways how many texts wait here for their answers, and hears the same of them.
 * @param nowMs Redis's time
 */
export async function shareWaiting(
  redis: Redis,
  model: string,
  { gatewayId, texts, nowMs }: { gatewayId: string; texts: number; nowMs: number },
): Promise<Elsewhere> {
  const key = names.waiting(model);
  await redis
    .multi()
    .hset(key, gatewayId, JSON.stringify({ texts, untilMs: nowMs + WAITING_TTL_MS }))
    .pexpire(key, WAITING_TTL_MS)
    .exec();
  const elsewhere = { gateways: 0, texts: 0 };
  const gone: string[] = [];
  for (const [id, said] of Object.entries(await redis.hgetall(key))) {
    const waiting = waitingSchema.safeParse(said);
    // What another version says is its own affair.
    if (id === gatewayId || !waiting.success) continue;
    if (waiting.data.untilMs < nowMs) {
      gone.push(id);
      continue;
    }
    elsewhere.gateways++;
    elsewhere.texts += waiting.data.texts;
  }
  if (gone.length > 0) await redis.hdel(key, ...gone);
  return elsewhere;
}

/** Takes back what a gateway that ends has said. */
export async function withdrawWaiting(redis: Redis, model: string, gatewayId: string): Promise<void> {
  await redis.hdel(names.waiting(model), gatewayId);
}
