import { isStorageFull, type Log, names, type RedisClock } from '@sluice/shared';
import type { Redis } from 'ioredis';

const PROBE_EVERY_MS = 1_000;

/** Whether Redis takes writes, as a write once a second shows. Its memory or its disk may be full. */
export class Storage {
  #full = false;
  #probing = false;
  #timer: NodeJS.Timeout;

  constructor(redis: Redis, clock: RedisClock, log: Log) {
    this.#timer = setInterval(() => {
      if (this.#probing || clock.away) return;
      this.#probing = true;
      redis
        .set(names.probe, '1', 'PX', PROBE_EVERY_MS)
        .then(
          () => {
            if (this.#full) log.info('Redis takes writes again');
            this.#full = false;
          },
          (err: unknown) => {
            // Other errors say nothing about the storage.
            if (!isStorageFull(err) || this.#full) return;
            this.#full = true;
            log.warn({ err }, 'Redis is full: work gets 503 until there is room; results can be read');
          },
        )
        .finally(() => {
          this.#probing = false;
        });
    }, PROBE_EVERY_MS);
  }

  get full(): boolean {
    return this.#full;
  }

  close(): void {
    clearInterval(this.#timer);
  }
}
