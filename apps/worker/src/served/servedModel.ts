import { setTimeout as delay } from 'node:timers/promises';
import {
  type ChunkMessage,
  type Ledger,
  type Log,
  ModelError,
  type ModelSpec,
  PREFIX,
  queueName,
  type RedisClock,
  type ServedModelReport,
  type Settings,
} from '@sluice/shared';
import { taskNamed } from '@sluice/tasks';
import { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Metrics, ModelMetrics } from '../metrics.js';
import { createBudget, TIMES_PREDICTED } from '../microbatch/budget.js';
import { Pending } from '../microbatch/pending.js';
import { Throughput } from '../microbatch/throughput.js';
import { createTokenCounter, createTokenEstimate } from '../microbatch/tokenCounter.js';
import { MAX_DRIFT } from '../model/measure.js';
import { readCpuFlags, sessionOptionsFor } from '../model/sessionOptions.js';
import { Pool } from '../process/pool.js';
import type { LoadMessage } from '../process/protocol.js';
import { ModelProcess } from '../process/supervisor.js';
import { BULK_QUEUE, createBulkWork } from '../queue/chunkMessages.js';
import { createInteractiveWork, INTERACTIVE_QUEUE } from '../queue/interactiveMessages.js';
import { createRunItem, type RunItem } from '../queue/item.js';
import { Prefetch } from '../queue/prefetch.js';
import { QueueReader } from '../queue/reader.js';
import type { Replies } from '../queue/replies.js';
import type { Withdrawals } from '../queue/withdrawals.js';
import { processesThatFit } from '../source/memory.js';
import { fetchModel } from '../source/source.js';
import { startTokenizerSharing } from './tokenizerSharing.js';

/** A model process that sends nothing for this long while it loads is killed. */
const LOAD_SILENCE_MS = 60_000;
/**
 * A replacement has at least this long, or a multiple of the first load's time: all processes of a worker may have to load
 * at once.
 */
const RELOAD_SILENCE_MS = 10_000;
const RELOAD_TIMES = 5;
/** Bulk rows that a worker holds per model process: two chunks, enough to find items of similar length. */
const BULK_ROWS_PER_PROCESS = 64;
/**
 * Until runs have been recorded, the rate is taken to be this many times the measured one: at the start other processes load
 * too, and a first burst must not be refused for that.
 */
const FIRST_RATE = 2;
/** Overhead of IPC and scheduling per run, in milliseconds: about the fixed cost of a run of the bundled classifier. */
const RUN_OVERHEAD_MS = 0.31;
/** A drain waits this long for a Redis that does not answer, in milliseconds. */
export const AWAY_MS = 500;

/** What the served models of a worker share. */
interface Services {
  settings: Settings;
  redis: Redis;
  withdrawals: Withdrawals;
  clock: RedisClock;
  ledger: Ledger;
  replies: Replies;
  metrics: Metrics;
  /** How many chunks of one caller may be in flight for a model. */
  maxInFlight: (modelId: string) => number;
  /** Model processes of all live workers that serve a model with the same hash. */
  fleetProcesses: (spec: ModelSpec) => number;
  /** Called when the processes of a model end again and again. */
  onBroken: (spec: ModelSpec) => void;
  /** Entry file of the model processes. */
  entry: string;
  /** Aborts when the worker is stopped before it is ready. */
  signal: AbortSignal;
  log: Log;
}

/** One model that a worker serves. */
export interface ServedModel {
  spec: ModelSpec;
  /** Whether a model process is loaded. */
  ready(): boolean;
  /** For the heartbeat. */
  report(): ServedModelReport;
  /**
   * Takes no more messages, finishes those it has, and ends the model processes.
   * @param withinMs messages that take longer return to the queue; undefined when Redis is away: they are abandoned
   */
  close(withinMs: number | undefined): Promise<void>;
}

/**
 * Loads a model and takes messages from its queues.
 * @param reservedBytes memory that models which are still to be loaded will take at least
 * @throws ModelError when the model cannot be loaded
 */
export async function serveModel(
  configured: ModelSpec,
  services: Services,
  reservedBytes: number,
): Promise<ServedModel> {
  const { settings, signal } = services;
  const log = services.log.child({ model: configured.id });
  const metrics = services.metrics.of(configured.id);
  const source = await fetchModel(configured, settings, signal, log);
  const memory = { availableBytes: process.availableMemory(), reservedBytes };
  const spec = {
    ...configured,
    processes: processesThatFit(configured, source.weightsBytes, memory, log),
  };
  const { pool, facts, measured } = await startPool(spec, source.folder, metrics, { ...services, log }).catch(
    async (error: unknown) => {
      signal.throwIfAborted();
      // Errors of the runtime rarely say that a file is damaged, so check the files.
      await source.verify();
      throw error;
    },
  );
  const { drift, msPerRow, msPerRun, msPerToken } = measured;
  const batching = drift !== null && drift <= MAX_DRIFT;
  log[batching ? 'info' : 'warn'](
    { drift, ms_per_run: digits(msPerRun), ms_per_token: digits(msPerToken), max_tokens: facts.maxTokens },
    batching
      ? `Batching enabled: outputs change by at most ${MAX_DRIFT} with batching`
      : drift === null
        ? 'Batching disabled: rows cannot run together'
        : `Batching disabled: outputs change by more than ${MAX_DRIFT} with batching`,
  );
  const budget = createBudget({ msPerRun, msPerToken }, spec);
  const { predictedMs, limitMs } = budget.row(facts.maxTokens);
  if (TIMES_PREDICTED * predictedMs > limitMs)
    log.warn(
      {
        predicted_ms: Math.round(predictedMs),
        limit_ms: Math.round(limitMs),
        timeout_seconds: spec.timeoutMs / 1000,
      },
      `Slow model: an input of ${facts.maxTokens} tokens takes about ${Math.round(predictedMs)} ms, and a run in a request is killed after ${Math.round(limitMs)} ms. Raise ` +
        'timeout_seconds (REQUEST_TIMEOUT_SECONDS), lower max_tokens, or submit long inputs as jobs',
    );
  const maxRows = batching ? spec.microBatch.rows : 1;
  // With batching, the rows of a micro-batch share the cost of a run.
  const throughput = new Throughput((msPerRow - msPerRun * (1 - 1 / maxRows)) / FIRST_RATE);
  const limits = { rows: maxRows, tokens: Math.min(spec.microBatch.tokens, budget.maxTokens) };
  const pending = new Pending({
    pool,
    limits: { ...limits, runCostTokens: (msPerRun + RUN_OVERHEAD_MS) / msPerToken },
    budgetMs: budget.budgetMs,
    throughput,
    onRun: metrics.run,
    log,
  });
  const task = taskNamed(spec.task);
  const runUncounted = createRunItem(
    {
      task,
      facts: task.facts.parse(facts.task),
      maxTokens: facts.maxTokens,
      limits,
      countTokens: createTokenCounter(source.folder, facts.maxTokens),
      estimateTokens: createTokenEstimate(facts.maxTokens),
    },
    log,
  );
  const runItem: RunItem = async (...item) => {
    const outcome = await runUncounted(...item);
    metrics.item(outcome.kind);
    return outcome;
  };
  metrics.ready(() => pool.ready);
  const readers = createReaders(spec, maxRows, runItem, pending, metrics, { ...services, log });
  const stopSharing = await startTokenizerSharing(services.redis, spec, source.folder, log);
  return {
    spec,
    ready: () => pool.ready > 0,
    report: () => ({
      id: spec.id,
      hash: spec.hash,
      task: spec.task,
      processes: spec.processes,
      rowsPerSecond: throughput.rowsPerSecond * Math.max(1, pool.ready),
      batching,
      drift,
      maxTokens: facts.maxTokens,
      revision: source.revision,
      dtype: spec.dtype,
      runtime: facts.runtime,
      facts: facts.task,
    }),
    close: async (withinMs) => {
      stopSharing();
      const closed = Promise.all(readers.map((reader) => reader.close(withinMs)));
      // BullMQ waits for Redis without a limit, and Redis may become unreachable during the drain.
      await Promise.race([closed, delay((withinMs ?? 0) + AWAY_MS, undefined, { ref: false })]);
      await pool.close();
      metrics.ready(undefined);
    },
  };
}

/** Starts to take messages from both queues of a model. */
function createReaders(
  spec: ModelSpec,
  maxRows: number,
  runItem: RunItem,
  pending: Pending,
  metrics: ModelMetrics,
  { redis, withdrawals, clock, ledger, replies, maxInFlight, fleetProcesses, log }: Services,
): readonly QueueReader[] {
  withdrawals.subscribe(spec.id);
  const bulkQueue = new Queue<ChunkMessage>(queueName(spec, 'bulk'), { connection: redis, prefix: PREFIX });
  bulkQueue.on('error', (err) => log.debug({ err }, 'Queue error'));
  const prefetch = new Prefetch({
    processes: spec.processes,
    microBatchRows: maxRows,
    fleetProcesses: () => fleetProcesses(spec),
  });
  const interactiveWork = (lane: 'interactive' | 'bulk') =>
    createInteractiveWork({
      modelId: spec.id,
      onMessage: ({ unansweredRows }) => {
        if (lane === 'interactive') prefetch.record(unansweredRows);
      },
      onWaited: (ms) => metrics.wait(lane, ms),
      clock,
      runItem,
      add: (rows) => pending.add(lane, rows),
      replies,
      withdrawals,
    });
  return [
    new QueueReader({
      ...INTERACTIVE_QUEUE,
      redis,
      queueName: queueName(spec, 'interactive'),
      maxRows: () => prefetch.maxRows,
      work: interactiveWork('interactive'),
      log,
    }),
    new QueueReader({
      ...BULK_QUEUE,
      redis,
      queueName: bulkQueue.name,
      maxRows: () => BULK_ROWS_PER_PROCESS * spec.processes,
      work: createBulkWork({
        interactiveWork: interactiveWork('bulk'),
        ledger,
        specHash: spec.hash,
        queue: bulkQueue,
        maxInFlight: () => maxInFlight(spec.id),
        runItem,
        add: (rows) => pending.add('bulk', rows),
        log,
      }),
      log,
    }),
  ];
}

/** Three digits, for the log. */
const digits = (value: number) => Number(value.toPrecision(3));

/** Starts the model processes. @throws ModelError when the model cannot be loaded */
async function startPool(
  spec: ModelSpec,
  folder: string,
  metrics: ModelMetrics,
  { entry, signal, onBroken, log }: Services,
) {
  signal.throwIfAborted();
  const load = loadMessage(spec, folder);
  const startedMs = performance.now();
  let reloadSilenceMs = LOAD_SILENCE_MS;
  const pool = new Pool({
    size: spec.processes,
    launch: (first) =>
      new ModelProcess(
        [process.execPath, ...process.execArgv, entry],
        { ...load, measure: first },
        first ? LOAD_SILENCE_MS : reloadSilenceMs,
        (line, pid) => log.debug({ model_process_pid: pid, line }, 'Output of a model process'),
      ),
    log,
    onRestart: metrics.restart,
    onBroken: (error) => {
      log.error({ err: error }, 'Stopped serving the model: its processes repeatedly failed to load');
      onBroken(spec);
    },
  });
  const abandon = () => void pool.close();
  signal.addEventListener('abort', abandon, { once: true });
  try {
    const facts = await pool.start();
    const loadMs = performance.now() - startedMs;
    reloadSilenceMs = Math.min(LOAD_SILENCE_MS, Math.max(RELOAD_SILENCE_MS, RELOAD_TIMES * loadMs));
    if (facts.measured === undefined) throw new Error('The model process did not measure the model');
    return { pool, facts, measured: facts.measured };
  } catch (error) {
    await pool.close();
    signal.throwIfAborted();
    if (error instanceof ModelError) throw error;
    throw new ModelError('load_failed', error instanceof Error ? error.message : String(error));
  } finally {
    signal.removeEventListener('abort', abandon);
  }
}

/** The message that makes a model process load a model from a folder. */
export function loadMessage(spec: ModelSpec, folder: string): LoadMessage {
  const { task, dtype, maxTokens, pooling, normalize, prompts } = spec;
  return {
    type: 'load',
    task,
    folder,
    dtype,
    ...(maxTokens === undefined ? {} : { maxTokens }),
    ...(pooling === undefined ? {} : { pooling }),
    ...(normalize === undefined ? {} : { normalize }),
    ...(prompts === undefined ? {} : { prompts }),
    sessionOptions: sessionOptionsFor(process.arch, readCpuFlags()),
    measure: true,
  };
}
