import { taskNameSchema } from '@sluice/tasks';
import type { Redis } from 'ioredis';
import * as z from 'zod';
import { json } from '../json.js';
import { redisTimeMs } from '../redis/clock.js';
import { names } from '../redis/names.js';
import { modelErrorCodeSchema } from './modelError.js';

/** A worker sends a heartbeat this often, in milliseconds. */
export const HEARTBEAT_EVERY_MS = 1_000;
/** A heartbeat that is not renewed for this long expires, in milliseconds. */
export const HEARTBEAT_TTL_MS = 3_000;

const servedModelSchema = z.object({
  id: z.string().min(1),
  /** See `ModelSpec`. */
  hash: z.string().min(1),
  task: taskNameSchema,
  /** Model processes. */
  processes: z.int().min(1),
  /** How many rows it answers in a second under load, averaged over the last seconds. */
  rowsPerSecond: z.number().positive(),
  /** Whether rows run together. */
  batching: z.boolean(),
  /** How much outputs change when rows run together; null if they cannot. */
  drift: z.number().nullable(),
  maxTokens: z.int().min(1),
  revision: z.string(),
  dtype: z.string(),
  /** What runs the model, with its version. */
  runtime: z.string(),
  /** What only the model's task understands; parsed with the task's `facts` schema. */
  facts: z.unknown(),
});
/** A model as a live worker reports it. */
export type ServedModelReport = z.infer<typeof servedModelSchema>;

const failedModelSchema = z.object({
  id: z.string().min(1),
  hash: z.string().min(1),
  error: modelErrorCodeSchema,
});
/** A model that a worker cannot serve. */
export type FailedModelReport = z.infer<typeof failedModelSchema>;

/** What a worker that is ready reports about itself. */
const heartbeatSchema = z.object({
  v: z.literal(1),
  workerId: z.string().min(1),
  models: z.array(servedModelSchema),
  /** Models that it should serve and cannot. */
  failed: z.array(failedModelSchema),
});
const heartbeatJson = json(heartbeatSchema);
export type Heartbeat = z.infer<typeof heartbeatSchema>;

/** Sends a worker's heartbeat, which is valid for {@link HEARTBEAT_TTL_MS}. */
export async function sendHeartbeat(redis: Redis, heartbeat: Heartbeat): Promise<void> {
  const nowMs = Math.round(await redisTimeMs(redis));
  await redis
    .multi()
    .set(names.worker(heartbeat.workerId), JSON.stringify(heartbeat), 'PX', HEARTBEAT_TTL_MS)
    .zadd(names.workers, nowMs + HEARTBEAT_TTL_MS, heartbeat.workerId)
    .zremrangebyscore(names.workers, '-inf', `(${nowMs}`)
    .pexpire(names.workers, HEARTBEAT_TTL_MS)
    .exec();
}

/** Removes a worker's heartbeat, so that no gateway counts on the worker any more. */
export async function removeHeartbeat(redis: Redis, workerId: string): Promise<void> {
  await redis.multi().del(names.worker(workerId)).zrem(names.workers, workerId).exec();
}

/** The heartbeats of the workers that are alive now. */
export async function liveWorkers(redis: Redis): Promise<Heartbeat[]> {
  const ids = await redis.zrange(names.workers, '0', '-1');
  if (ids.length === 0) return [];
  const heartbeats = await redis.mget(ids.map(names.worker));
  return heartbeats.flatMap((text) => {
    // A worker of another version serves gateways of that version.
    const heartbeat = heartbeatJson.safeParse(text);
    return heartbeat.success ? [heartbeat.data] : [];
  });
}

/** What each live worker reports about one model, whatever spec it has of it. */
export function reportsOf(workers: readonly Heartbeat[], modelId: string): ServedModelReport[] {
  return workers.flatMap(({ models }) => models.filter(({ id }) => id === modelId));
}
