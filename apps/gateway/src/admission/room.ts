import { names } from '@sluice/shared';
import type { Redis } from 'ioredis';
import { fromRedis, Problem } from '../errors/problem.js';

/** The part of Redis's `maxmemory` that batches may fill; the rest is for interactive work, keys and limits. */
const FOR_BATCHES = 0.8;
/** What the result of a text takes in Redis, in bytes: 65 were measured with the bundled model, whose labels are short. */
const RESULT_BYTES = 100;

/** Whether Redis has room for more of batches, and for the results of those that it has taken. */
export class Room {
  #redis: Redis;

  constructor(redis: Redis) {
    this.#redis = redis;
  }

  /**
   * Passes when there is room.
   * @param texts of an upload, as far as they stand in Redis: their results are still to come
   * @throws Problem `nearly_full` or `unavailable`
   */
  async ensure(texts: number): Promise<void> {
    const memory = await fromRedis(this.#redis.info('memory'));
    const bytes = (name: string) => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(memory)?.[1] ?? 0);
    const most = bytes('maxmemory');
    if (most === 0) return;
    const results = RESULT_BYTES * (texts + (await fromRedis(this.#unanswered())));
    if (bytes('used_memory') + results > FOR_BATCHES * most) throw new Problem('nearly_full');
  }

  /** How many texts of accepted batches have no result yet. */
  async #unanswered(): Promise<number> {
    const callers = await this.#redis.smembers(names.callers);
    const keyIds = new Set(callers.map((caller) => caller.split(' ')[1] ?? ''));
    const queued = await Promise.all(
      [...keyIds].map((keyId) => this.#redis.hget(names.key(keyId), 'bulk_queued')),
    );
    return queued.reduce((sum, texts) => sum + Number(texts ?? 0), 0);
  }
}
