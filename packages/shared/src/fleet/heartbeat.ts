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
