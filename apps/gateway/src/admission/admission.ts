import { type Heartbeat, type Log, liveWorkers } from '@sluice/shared';
import type { Redis } from 'ioredis';
import { fromRedis, Problem } from '../errors/problem.js';

const LOOK_EVERY_MS = 500;

/** Lets work in only where it can be done: refuses at once when no live worker serves the model. */
export class Admission {
  #redis: Redis;
  #log: Log;
  #workers: Heartbeat[] = [];
  #timer: NodeJS.Timeout;

  constructor(redis: Redis, log: Log) {
    this.#redis = redis;
    this.#log = log;
    this.#timer = setInterval(() => {
      this.workers().catch((err: unknown) => this.#log.debug({ err }, 'The fleet could not be read'));
    }, LOOK_EVERY_MS);
  }

  /** The live workers, as they were seen lately. */
  get fleet(): readonly Heartbeat[] {
    return this.#workers;
  }

  /** The live workers, as Redis tells now. */
  async workers(): Promise<readonly Heartbeat[]> {
    this.#workers = await liveWorkers(this.#redis);
    return this.#workers;
  }

  /**
   * Passes when a live worker serves the model. What was seen lately is enough to let in, not to refuse.
   * @throws Problem `no_worker` or `unavailable`
   */
  async admit(model: string): Promise<void> {
    const serves = (worker: Heartbeat) => worker.model === model;
    if (this.#workers.some(serves)) return;
    if (!(await fromRedis(this.workers())).some(serves)) throw new Problem('no_worker');
  }

  close(): void {
    clearInterval(this.#timer);
  }
}
