import { names } from '@sluice/shared';
import type { Redis } from 'ioredis';
import { fromRedis, Problem } from '../http/problem.js';

/** The fraction of Redis's `maxmemory` that jobs may use; the rest is for interactive work, keys and limits. */
const USABLE_BY_JOBS = 0.8;

/** Checks that Redis has memory for jobs, including the results that are still to be stored. */
export class RedisMemory {
  #redis: Redis;

  constructor(redis: Redis) {
    this.#redis = redis;
  }

  /**
   * Checks that there is memory for another piece of an upload.
   * @param resultBytes that the results of what is staged so far will take
   * @throws Problem `nearly_full` or `unavailable`
   */
  async check(resultBytes: number): Promise<void> {
    const [info, reserved] = await fromRedis(
      Promise.all([this.#redis.info('memory'), this.#redis.get(names.resultBytes)]),
    );
    const bytes = (name: string) => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(info)?.[1] ?? 0);
    const max = bytes('maxmemory');
    if (max === 0) return;
    const results = resultBytes + Number(reserved ?? 0);
    if (bytes('used_memory') + results > USABLE_BY_JOBS * max) throw new Problem('nearly_full');
  }
}
