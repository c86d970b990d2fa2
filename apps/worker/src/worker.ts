import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import {
  type App,
  announce,
  BEAT_EVERY_MS,
  type ChunkJob,
  connectRedis,
  type Heartbeat,
  Ledger,
  type Log,
  liveWorkers,
  mostOut,
  PREFIX,
  queueName,
  RedisClock,
  requireServer,
  rootFolder,
  type Settings,
  StartError,
  whenReady,
  withdraw,
} from '@sluice/shared';
import { Queue } from 'bullmq';
import { startAdminServer } from './admin/server.js';
import { Lot } from './batch/lot.js';
import { Throughput } from './batch/throughput.js';
import { createCountTokens } from './batch/tokens.js';
import { ChunkConsumer } from './consume/chunk.js';
import { Consumer } from './consume/consumer.js';
import { MAX_MOVE } from './model/invariance.js';
import { Pool } from './model/pool.js';
import type { LoadMessage } from './model/protocol.js';
import { readCpuFlags, sessionOptionsFor } from './model/sessionOptions.js';
import { type LoadProgress, ModelProcess } from './model/supervisor.js';
import { Replies } from './reply/reply.js';

/** A model process that says nothing for so long while it loads is given up; progress of a download counts. */
const LOAD_SILENCE_MS = 60_000;
/** A replacement loads what is there: it has at least so long, or a few times what the first needed. */
const RELOAD_SILENCE_MS = 5_000;
const RELOAD_TIMES = 5;
/** A drain waits so long for a Redis that does not answer. */
const AWAY_MS = 500;
/** Micro-batches of interactive texts that a worker holds for each model process. */
const MICRO_BATCHES_PER_PROCESS = 4;
/** Chunks that a worker holds for each model process: enough to find texts of like length among. */
const CHUNKS_PER_PROCESS = 2;
const PROGRESS_EVERY_MS = 1_000;

export { readCpuFlags, sessionOptionsFor } from './model/sessionOptions.js';
export { ModelProcess } from './model/supervisor.js';

/** The entry of the model process that ships. */
export const modelProcessEntry = fileURLToPath(new URL('model/process.js', import.meta.url));

/**
 * Starts a worker: loads the model, then takes jobs.
 * @param entry of the model processes; tests and benchmarks plug in others
 * @throws StartError when the model cannot be loaded
 */
export async function startWorker(
  settings: Settings,
  log: Log,
  signal: AbortSignal,
  entry: string = modelProcessEntry,
): Promise<App> {
  const workerId = randomUUID();
  const load = loadMessage(settings);
  const progress = progressLog(settings.MODEL, log);
  let reloadSilenceMs = LOAD_SILENCE_MS;
  const pool = new Pool({
    size: settings.MODEL_PROCESSES,
    launch: (first) =>
      new ModelProcess(
        [process.execPath, ...process.execArgv, entry],
        { ...load, introduce: first },
        first ? LOAD_SILENCE_MS : reloadSilenceMs,
        progress,
      ),
    log,
    onBroken: (error) => {
      log.fatal({ err: error }, 'Model processes do not load any more; the worker ends');
      process.exit(1);
    },
  });
  const startedMs = performance.now();
  const abandon = () => void pool.close();
  signal.addEventListener('abort', abandon, { once: true });
  const facts = await pool.start().catch(async (error: Error) => {
    await pool.close();
    if (signal.aborted) throw signal.reason;
    throw new StartError(`The model ${settings.MODEL} cannot be loaded: ${error.message}`);
  });
  const loadMs = performance.now() - startedMs;
  reloadSilenceMs = Math.min(LOAD_SILENCE_MS, Math.max(RELOAD_SILENCE_MS, RELOAD_TIMES * loadMs));
  const batching = facts.moved !== undefined && facts.moved <= MAX_MOVE;
  log[batching ? 'info' : 'warn'](
    { model: settings.MODEL, moved: facts.moved },
    batching
      ? 'Scores do not change with the company of a text: it is batched'
      : 'Scores of this model change with the company of a text: it is not batched',
  );

  const redis = connectRedis(settings.REDIS_URL, 'worker', log);
  await whenReady(redis, signal)
    .then(() => requireServer(redis, log))
    .catch(async (error: unknown) => {
      redis.disconnect();
      await pool.close();
      throw error;
    });
  signal.removeEventListener('abort', abandon);
  const clock = new RedisClock(redis);
  const texts = batching ? settings.MICRO_BATCH_TEXTS : 1;
  const countTokens = createCountTokens(facts);
  // It may be large, and is not needed any more.
  delete facts.tokenizer;
  const throughput = new Throughput(facts.msPerText ?? 1);
  const lot = new Lot({
    pool,
    limits: { texts, tokens: settings.MICRO_BATCH_TOKENS },
    stallMs: settings.STALL_SECONDS * 1000,
    throughput,
    log,
  });
  const consumer = new Consumer({
    redis,
    queueName: queueName(settings.MODEL, 'interactive'),
    prefetch: MICRO_BATCHES_PER_PROCESS * settings.MODEL_PROCESSES * texts,
    clock,
    countTokens,
    park: (lane, item) => lot.park(lane, item),
    replies: new Replies(redis),
    log,
  });
  const bulkQueueName = queueName(settings.MODEL, 'bulk');
  const bulkQueue = new Queue<ChunkJob>(bulkQueueName, { connection: redis, prefix: PREFIX });
  bulkQueue.on('error', (err) => log.debug({ err }, 'Queue error'));
  let fleet: Heartbeat[] = [];
  const chunkConsumer = new ChunkConsumer({
    redis,
    queueName: bulkQueueName,
    queue: bulkQueue,
    prefetch: CHUNKS_PER_PROCESS * settings.MODEL_PROCESSES,
    ledger: new Ledger(redis, {
      resultTtlMs: settings.RESULT_TTL_SECONDS * 1000,
      batchTimeoutMs: settings.BATCH_TIMEOUT_SECONDS * 1000,
    }),
    mostOut: () => mostOut(fleet, settings.MODEL),
    countTokens,
    park: (lane, item) => lot.park(lane, item),
    log,
  });
  let draining = false;
  const admin = await startAdminServer(
    { host: settings.WORKER_ADMIN_HOST, port: settings.WORKER_ADMIN_PORT, log },
    () =>
      draining
        ? 'draining'
        : clock.away
          ? 'Redis does not answer'
          : pool.ready === 0
            ? 'no model process is loaded'
            : undefined,
  );

  let beat: Promise<void> = Promise.resolve();
  const heartbeat = (): Heartbeat => ({
    v: 1,
    workerId,
    model: settings.MODEL,
    processes: settings.MODEL_PROCESSES,
    textsPerSecond: throughput.textsPerSecond * Math.max(1, pool.ready),
    facts: {
      labels: facts.labels,
      maxTokens: facts.maxTokens,
      revision: settings.MODEL_REVISION,
      dtype: settings.MODEL_DTYPE,
      runtime: facts.runtime,
      batching,
    },
  });
  const announceNow = () => {
    beat = announce(redis, heartbeat())
      .then(async () => {
        fleet = await liveWorkers(redis);
      })
      .catch((err: unknown) => log.debug({ err }, 'The heartbeat was not heard'));
    return beat;
  };
  await announceNow();
  let beating = false;
  const beats = setInterval(() => {
    if (beating || redis.status !== 'ready') return;
    beating = true;
    void announceNow().finally(() => {
      beating = false;
    });
  }, BEAT_EVERY_MS);
  log.info(
    {
      model: settings.MODEL,
      processes: settings.MODEL_PROCESSES,
      admin_port: admin.port,
      ms: Math.round(performance.now() - startedMs),
    },
    'The worker is ready',
  );

  const withdrawNow = async () => {
    await beat;
    await withdraw(redis, workerId).catch((err: unknown) =>
      log.debug({ err }, 'The announcement was not withdrawn'),
    );
  };
  let closing: Promise<void> | undefined;
  return {
    facts: { workerId, adminPort: admin.port },
    close: () => {
      closing ??= (async () => {
        draining = true;
        clearInterval(beats);
        // Without Redis the announcement goes by its time to live.
        await Promise.race([withdrawNow(), delay(AWAY_MS)]);
        const away = redis.status !== 'ready' || clock.away;
        const closed = Promise.all([consumer.close(away), chunkConsumer.close(away)]);
        // With Redis away what runs could be told to nobody, and BullMQ would wait for it.
        await (away ? Promise.race([closed, delay(AWAY_MS)]) : closed);
        await pool.close();
        await admin.close();
        clock.close();
        redis.disconnect();
      })();
      return closing;
    },
  };
}

/** What a model process is told to load. A folder of `models/` wins over an id on the Hub. */
export function loadMessage(settings: Settings): LoadMessage {
  const modelsDir = join(rootFolder, 'models');
  return {
    type: 'load',
    model: settings.MODEL,
    modelsDir,
    bundled: existsSync(join(modelsDir, settings.MODEL, 'config.json')),
    cacheDir: join(settings.DATA_DIR, 'models'),
    hubUrl: settings.HF_ENDPOINT,
    revision: settings.MODEL_REVISION,
    dtype: settings.MODEL_DTYPE,
    sessionOptions: sessionOptionsFor(process.arch, readCpuFlags()),
    introduce: true,
  };
}

/** Logs how far a slow load is, which is a download most likely: a line a second for each file. */
function progressLog(model: string, log: Log): (progress: LoadProgress) => void {
  const lastMs = new Map<string, number>();
  return ({ file, loadedBytes, totalBytes }) => {
    const nowMs = performance.now();
    const last = lastMs.get(file);
    if (last === undefined) lastMs.set(file, nowMs);
    if (last === undefined || nowMs - last < PROGRESS_EVERY_MS) return;
    lastMs.set(file, nowMs);
    const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1);
    const percent = totalBytes > 0 ? Math.floor((100 * loadedBytes) / totalBytes) : 0;
    log.info(
      `Loading ${model}: ${file}, ${megabytes(loadedBytes)} of ${megabytes(totalBytes)} MB (${percent} %)`,
    );
  };
}
