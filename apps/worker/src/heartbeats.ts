import {
  gatewayHashes,
  HEARTBEAT_EVERY_MS,
  type Heartbeat,
  type Log,
  liveWorkers,
  type ModelSpec,
  type RedisClock,
  removeHeartbeat,
  sendHeartbeat,
} from '@sluice/shared';
import type { Redis } from 'ioredis';

interface HeartbeatsOptions {
  redis: Redis;
  workerId: string;
  /** The models that this worker should serve. */
  specs: readonly ModelSpec[];
  clock: RedisClock;
  reports: () => Pick<Heartbeat, 'models' | 'failed'>;
  log: Log;
}

/** Sends the heartbeats of this worker, and reads those of all workers. */
export class Heartbeats {
  #options: HeartbeatsOptions;
  #workers: readonly Heartbeat[] = [];
  #sending: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** Hashes of gateways that differ, as `<model> <hash>`, which have been logged. */
  #logged = new Set<string>();

  constructor(options: HeartbeatsOptions) {
    this.#options = options;
  }

  /** All live workers, as read with the last heartbeat. */
  get workers(): readonly Heartbeat[] {
    return this.#workers;
  }

  /** Sends the first heartbeat, and then one a second. */
  async start(): Promise<void> {
    this.#timer = setInterval(() => {
      // If Redis is slow, heartbeats must not pile up.
      if (!this.#sending) void this.send();
    }, HEARTBEAT_EVERY_MS);
    await this.send();
  }

  /** Sends no more heartbeats; the last one expires by itself. */
  pause(): void {
    clearInterval(this.#timer);
  }

  /** Stops, and removes the heartbeat. */
  async stop(): Promise<void> {
    this.pause();
    await this.#sending;
    const { redis, workerId, log } = this.#options;
    await removeHeartbeat(redis, workerId).catch((err: unknown) =>
      log.debug({ err }, 'Could not remove the heartbeat'),
    );
  }

  /** Sends a heartbeat now, after one that is being sent. Does nothing without Redis. */
  async send(): Promise<void> {
    const { redis, workerId, reports, log } = this.#options;
    await this.#sending;
    if (redis.status !== 'ready') return;
    this.#sending = sendHeartbeat(redis, { v: 1, workerId, ...reports() })
      .then(async () => {
        this.#workers = await liveWorkers(redis);
        await this.#compareSpecs();
      })
      .catch((err: unknown) => log.debug({ err }, 'Could not send a heartbeat'))
      .finally(() => {
        this.#sending = undefined;
      });
    return this.#sending;
  }

  /** Logs once when a gateway's configuration of a model differs, so that it does not use this worker for the model. */
  async #compareSpecs(): Promise<void> {
    const { redis, specs, clock, log } = this.#options;
    const nowMs = clock.now();
    if (nowMs === undefined) return;
    for (const { id, hash } of specs) {
      for (const other of await gatewayHashes(redis, id, nowMs)) {
        const name = `${id} ${other}`;
        if (other === hash || this.#logged.has(name)) continue;
        this.#logged.add(name);
        log.warn(
          { model: id },
          'A gateway does not use this worker for this model: their configurations differ (compare models.json)',
        );
      }
    }
  }
}
