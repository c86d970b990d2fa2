import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import {
  type AdminPort,
  type App,
  connectRedis,
  type FailedModelReport,
  Ledger,
  type Log,
  ModelError,
  type ModelSpec,
  maxChunksInFlight,
  RedisClock,
  reportsOf,
  requireServer,
  runApp,
  type Settings,
  StartError,
  whenReady,
  workerSpecs,
} from '@sluice/shared';
import { startAdminServer } from './admin/server.js';
import { Heartbeats } from './heartbeats.js';
import { createMetrics } from './metrics.js';
import { Replies } from './queue/replies.js';
import { Withdrawals } from './queue/withdrawals.js';
import { AWAY_MS, type ServedModel, serveModel } from './served/servedModel.js';
import { leastBytes } from './source/source.js';

export { readCpuFlags, sessionOptionsFor } from './model/sessionOptions.js';
export { ModelProcess } from './process/supervisor.js';
export { loadMessage } from './served/servedModel.js';

/** A model whose processes ended again and again is loaded again after this long, in milliseconds. */
const RETRY_BROKEN_MS = 30_000;

/** Entry file of the shipped model process. */
export const modelProcessEntry = fileURLToPath(new URL('model/process.js', import.meta.url));

/**
 * Runs a worker as this process.
 * @param entry entry file of the model processes; tests and benchmarks use others
 */
export const run = (entry?: string) => runApp('worker', (...start) => startWorker(...start, entry));

/**
 * Starts a worker: connects to Redis, loads the models one after the other and takes messages. A model that cannot be
 * loaded does not keep the others from being served.
 * @param signal ends the start
 * @param drainMs how long the messages that it has taken by then may take
 * @param entry entry file of the model processes; tests and benchmarks use others
 * @throws StartError when no model can be loaded, or Redis is unsupported; SettingsError
 */
export async function startWorker(
  settings: Settings,
  log: Log,
  signal: AbortSignal,
  drainMs: number,
  entry: string = modelProcessEntry,
): Promise<App> {
  const specs = workerSpecs(settings);
  const workerId = randomUUID();
  const startedMs = performance.now();
  const redis = connectRedis(settings.REDIS_URL, 'worker', log);
  const subscriber = connectRedis(settings.REDIS_URL, 'subscriber', log);
  const clock = new RedisClock(redis, log);
  const metrics = createMetrics(clock);
  const served = new Map<string, ServedModel>();
  const failed = new Map<string, FailedModelReport>();
  /** Models whose processes have ended again and again. */
  const broken = new Set<string>();
  let isLoading = true;
  let admin: AdminPort | undefined;
  let draining = false;
  let load: (spec: ModelSpec, reservedBytes: number) => Promise<ServedModel> = () =>
    Promise.reject(new Error('The worker has not started'));
  const heartbeats = new Heartbeats({
    redis,
    workerId,
    specs,
    clock,
    reports: () => ({
      models: [...served.values()].map((model) => model.report()),
      failed: [...failed.values()],
    }),
    log,
  });

  function onFailed({ id, hash }: ModelSpec, error: FailedModelReport['error']): void {
    failed.set(id, { id, hash, error });
  }

  /** Closes a model whose processes end again and again, and tries to load it again later. */
  function onBroken(spec: ModelSpec): void {
    const model = served.get(spec.id);
    served.delete(spec.id);
    onFailed(spec, 'load_failed');
    broken.add(spec.id);
    if (served.size === 0 && !isLoading) {
      log.fatal('No model left to serve; exiting');
      process.exit(1);
    }
    model?.close(0).catch((err: unknown) => log.debug({ err }, 'Could not close a model'));
    void retry(spec);
  }

  async function retry(spec: ModelSpec): Promise<void> {
    while (broken.has(spec.id) && !draining) {
      await delay(RETRY_BROKEN_MS, undefined, { ref: false });
      try {
        served.set(spec.id, await load(spec, 0));
        broken.delete(spec.id);
        failed.delete(spec.id);
        log.info({ model: spec.id }, 'Model loaded again');
      } catch (err) {
        log.warn({ err, model: spec.id }, 'Model could not be loaded again');
      }
    }
  }

  try {
    await requireServer(redis, log);
    await whenReady(redis, signal);
    const services = {
      settings,
      redis,
      withdrawals: new Withdrawals(subscriber, log),
      clock,
      ledger: new Ledger(redis, {
        resultTtlMs: settings.RESULT_TTL_SECONDS * 1000,
        jobTimeoutMs: settings.BATCH_TIMEOUT_SECONDS * 1000,
      }),
      replies: new Replies(redis, log),
      metrics,
      maxInFlight: (modelId: string) => maxChunksInFlight(heartbeats.workers, modelId),
      fleetProcesses: ({ id, hash }: ModelSpec) =>
        reportsOf(heartbeats.workers, id)
          .filter((report) => report.hash === hash)
          .reduce((sum, { processes }) => sum + processes, 0),
      onBroken,
      entry,
      signal,
      log,
    };
    load = (spec, reservedBytes) => serveModel(spec, services, reservedBytes);
    // Each model is served as soon as it is loaded.
    await heartbeats.start();
    for (const [i, spec] of specs.entries()) {
      const reservedBytes = specs.slice(i + 1).reduce((sum, later) => sum + leastBytes(later), 0);
      const modelMs = performance.now();
      try {
        served.set(spec.id, await load(spec, reservedBytes));
        await heartbeats.send();
        log.info({ model: spec.id, ms: Math.round(performance.now() - modelMs) }, 'Model loaded');
      } catch (error) {
        if (!(error instanceof ModelError)) throw error;
        onFailed(spec, error.code);
        await heartbeats.send();
        const message = `The model ${spec.id} cannot be loaded: ${error.message}`;
        if (specs.length === 1) throw new StartError(message);
        log.error({ model: spec.id, code: error.code }, message);
      }
    }
    isLoading = false;
    if (served.size === 0) throw new StartError('No model could be loaded');
  } catch (error) {
    // A heartbeat with the error of each model stays until it expires.
    heartbeats.pause();
    await drain(signal.aborted ? drainMs : 0, signal.aborted);
    throw error;
  }

  admin = await startAdminServer(
    { host: settings.WORKER_ADMIN_HOST, port: settings.WORKER_ADMIN_PORT, metrics, log },
    () => {
      if (draining) return 'draining';
      if (clock.away) return 'Redis does not answer';
      const waiting = [...served.values()].find((model) => !model.ready());
      if (waiting) return `no model process of ${waiting.spec.id} is loaded`;
      return broken.size === 0 ? undefined : `not served any more: ${[...broken].join(', ')}`;
    },
  );
  log.info(
    {
      models: [...served.keys()],
      processes: [...served.values()].reduce((sum, { spec }) => sum + spec.processes, 0),
      admin_port: admin.port,
      ms: Math.round(performance.now() - startedMs),
    },
    'Worker ready',
  );

  async function drain(withinMs: number, removeHeartbeat = true): Promise<void> {
    draining = true;
    // Without Redis the heartbeat expires by itself.
    if (removeHeartbeat) await Promise.race([heartbeats.stop(), delay(AWAY_MS)]);
    const redisAway = redis.status !== 'ready' || clock.away;
    await Promise.all([...served.values()].map((model) => model.close(redisAway ? undefined : withinMs)));
    await admin?.close();
    clock.close();
    redis.disconnect();
    subscriber.disconnect();
  }

  let drained: Promise<void> | undefined;
  return {
    facts: { workerId, adminPort: admin.port },
    close: (withinMs) => {
      drained ??= drain(withinMs);
      return drained;
    },
  };
}
