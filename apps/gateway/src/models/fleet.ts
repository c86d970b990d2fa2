import {
  type FailedModelReport,
  HEARTBEAT_TTL_MS,
  type Heartbeat,
  type Log,
  liveWorkers,
  type ModelSpec,
  type RedisClock,
  type ServedModelReport,
} from '@sluice/shared';
import type { Redis } from 'ioredis';
import type { Storage } from '../admission/storage.js';

const READ_EVERY_MS = 250;

/** The live workers of all models, read from Redis a few times a second. */
export class Fleet {
  #redis: Redis;
  #storage: Storage;
  #specs: readonly ModelSpec[];
  #workers: readonly Heartbeat[] = [];
  /** Reports by model id, collected when they are first needed after a read. */
  #reports = new Map<string, readonly ServedModelReport[]>();
  #reading = false;
  #log: Log;
  /** Configured models that a live worker has served: since when none does, and whether the log says so. */
  #served = new Map<string, { missingSinceMs: number | undefined; isLogged: boolean }>();
  /** Workers whose spec of a model differs, as `<worker> <model>`, which have been logged. */
  #differing = new Set<string>();
  #timer: NodeJS.Timeout;

  /** @param specs configured models; the log says when the last worker of one ends, and when one is back */
  constructor(redis: Redis, clock: RedisClock, storage: Storage, specs: readonly ModelSpec[], log: Log) {
    this.#redis = redis;
    this.#storage = storage;
    this.#specs = specs;
    this.#log = log;
    this.#timer = setInterval(() => {
      if (this.#reading || clock.away) return;
      this.#reading = true;
      this.read()
        .catch((err: unknown) => log.debug({ err }, 'Could not read the live workers'))
        .finally(() => {
          this.#reading = false;
        });
    }, READ_EVERY_MS);
  }

  /** The live workers as read recently. */
  get workers(): readonly Heartbeat[] {
    return this.#workers;
  }

  /** Reads the live workers now. @throws what the Redis connection throws */
  async read(): Promise<void> {
    this.#workers = await liveWorkers(this.#redis);
    this.#reports.clear();
    // While Redis is full, no heartbeat can be stored.
    if (this.#storage.full) return;
    for (const spec of this.#specs) {
      this.#logChange(spec.id, this.reportsOf(spec).length > 0);
      this.#logDiffering(spec);
    }
  }

  /** Logs once when a worker's configuration of a model differs, so that this gateway does not use it for the model. */
  #logDiffering({ id, hash }: ModelSpec): void {
    for (const { workerId, models } of this.#workers) {
      const name = `${workerId} ${id}`;
      if (this.#differing.has(name) || !models.some((model) => model.id === id && model.hash !== hash))
        continue;
      this.#differing.add(name);
      this.#log.warn(
        { model: id, worker_id: workerId },
        'A worker is not used for this model: its configuration differs from that of this gateway (compare models.json)',
      );
    }
  }

  /** Logs when no live worker serves a model any more, and when one does again. At a start none may have been ready yet. */
  #logChange(model: string, isServed: boolean): void {
    const served = this.#served.get(model);
    if (isServed) {
      if (served?.isLogged) this.#log.info({ model }, 'A model has a live worker again');
      this.#served.set(model, { missingSinceMs: undefined, isLogged: false });
    } else if (served && !served.isLogged) {
      served.missingSinceMs ??= performance.now();
      // After an outage of Redis the workers are alive, but their heartbeats have expired.
      if (performance.now() - served.missingSinceMs < HEARTBEAT_TTL_MS) return;
      served.isLogged = true;
      this.#log.warn({ model }, 'No live worker serves a model any more');
    }
  }

  /** What the live workers reported about a model, as read recently. */
  reportsOf({ id, hash }: ModelSpec): readonly ServedModelReport[] {
    const known = this.#reports.get(id);
    if (known) return known;
    const reports = this.#workers.flatMap(({ models }) =>
      models.filter((model) => model.id === id && model.hash === hash),
    );
    this.#reports.set(id, reports);
    return reports;
  }

  /** Why live workers cannot serve a model, as read recently; undefined if no live worker reports an error. */
  errorOf({ id, hash }: ModelSpec): FailedModelReport['error'] | undefined {
    return this.#workers
      .flatMap(({ failed }) => failed)
      .find((model) => model.id === id && model.hash === hash)?.error;
  }

  close(): void {
    clearInterval(this.#timer);
  }
}
