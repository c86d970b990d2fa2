import { problems } from '@sluice/contract';
import { createRegistry, type Lane, type Ledger, type Log, type RedisClock } from '@sluice/shared';
import { Counter, Gauge, Histogram } from 'prom-client';
import type { Storage } from './admission/storage.js';
import { type DoneRequest, UNKNOWN_PATH } from './http/requestLog.js';
import type { Catalog } from './models/catalog.js';

/** Upper bounds in seconds: from the fastest answers to the longest deadline by default. */
const REQUEST_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

interface Services {
  clock: RedisClock;
  catalog: Catalog;
  ledger: Ledger;
  storage: Storage;
  /** Whether requests are also counted by key. */
  byKey: boolean;
  log: Log;
}

/** The metrics of a gateway. */
export type Metrics = ReturnType<typeof createMetrics>;

/**
 * Creates the metrics of a gateway. Values that all gateways share, such as the backlog, are read from Redis at each scrape.
 */
export function createMetrics({ clock, catalog, ledger, storage, byKey, log }: Services) {
  const registry = createRegistry(clock);
  const registers = [registry];
  const key = byKey ? (['key_id'] as const) : [];
  const requests = new Histogram({
    name: 'http_request_duration_seconds',
    help: 'Time from the head of a request to the end of its response',
    labelNames: ['method', 'route', 'status', ...key],
    buckets: REQUEST_SECONDS,
    registers,
  });
  const errors = new Counter({
    name: 'sluice_errors_total',
    help: 'Responses with an error, by its code',
    labelNames: ['code'],
    registers,
  });
  // Counters start at 0, so that rate() sees the first increase.
  for (const code of Object.keys(problems)) errors.inc({ code }, 0);
  const rateLimited = new Counter({
    name: 'sluice_rate_limited_total',
    help: 'Requests over the rate limit of their key (429)',
    labelNames: [...key],
    registers,
  });
  if (!byKey) rateLimited.inc(0);
  const deliveries = new Counter({
    name: 'sluice_webhook_deliveries_total',
    help: 'Attempts to deliver a webhook: delivered, failed (will be repeated), abandoned',
    labelNames: ['outcome'],
    registers,
  });
  for (const outcome of ['delivered', 'failed', 'abandoned']) deliveries.inc({ outcome }, 0);

  new Gauge({
    name: 'sluice_workers',
    help: 'Live workers that serve a model',
    labelNames: ['model'],
    registers,
    collect() {
      this.reset();
      if (clock.away) return;
      for (const { spec, reports } of catalog.entries) this.set({ model: spec.id }, reports().length);
    },
  });
  new Gauge({
    name: 'sluice_model_processes',
    help: 'Model processes that live workers are configured with',
    labelNames: ['model'],
    registers,
    collect() {
      this.reset();
      if (clock.away) return;
      for (const { spec, reports } of catalog.entries)
        this.set(
          { model: spec.id },
          reports().reduce((sum, { processes }) => sum + processes, 0),
        );
    },
  });
  new Gauge({
    name: 'sluice_predicted_wait_seconds',
    help: 'Predicted time to answer a request that arrives now, which admission uses. Absent while no live worker serves the model',
    labelNames: ['model'],
    registers,
    collect() {
      this.reset();
      if (clock.away) return;
      for (const { spec, lanes } of catalog.entries) {
        const waitMs = lanes.interactive.admission.predictedWaitMs(1);
        if (waitMs !== undefined) this.set({ model: spec.id }, waitMs / 1000);
      }
    },
  });
  new Gauge({
    name: 'sluice_storage_full',
    help: 'Whether Redis refuses writes because its memory or disk is full: 1 or 0',
    registers,
    collect() {
      this.set(storage.full ? 1 : 0);
    },
  });
  const backlog = new Gauge({
    name: 'sluice_backlog_rows',
    help: 'Rows that have no result yet, of all gateways. The lane bulk has large requests and unfinished jobs. Without a worker requests are refused, so they are not part of it',
    labelNames: ['model', 'lane'],
    registers,
    collect: readCounts,
  });
  const jobs = new Gauge({
    name: 'sluice_jobs',
    help: 'Unfinished jobs by status',
    labelNames: ['status'],
    registers,
    collect: readCounts,
  });
  const ended = new Counter({
    name: 'sluice_jobs_ended_total',
    help: 'Jobs that have ended, by status; all gateways show the same',
    labelNames: ['status'],
    registers,
    collect: readCounts,
  });

  let reading: Promise<void> | undefined;
  /** One scrape reads Redis once. */
  function readCounts(): Promise<void> {
    reading ??= setCounts().finally(() => {
      reading = undefined;
    });
    return reading;
  }

  /** Reads the values that all gateways share. Without Redis these metrics are absent. */
  async function setCounts(): Promise<void> {
    for (const metric of [backlog, jobs, ended]) metric.reset();
    if (clock.away) return;
    try {
      const counts = await ledger.counts();
      for (const { spec, lanes } of catalog.entries) {
        for (const lane of ['interactive', 'bulk'] as const satisfies Lane[]) {
          const { unansweredRows } = lanes[lane].admission;
          const rows = lane === 'bulk' ? unansweredRows + counts.rows(spec.id) : unansweredRows;
          backlog.set({ model: spec.id, lane }, rows);
        }
      }
      for (const [status, number] of Object.entries(counts.unfinished)) jobs.set({ status }, number);
      for (const [status, number] of Object.entries(counts.ended)) ended.inc({ status }, number);
    } catch (err) {
      log.warn({ err }, 'Could not read counts for the metrics');
    }
  }

  return {
    /** Records a request that is done. */
    request({ method, route, status, code, keyId, ms }: DoneRequest): void {
      const ofKey = byKey ? { key_id: keyId ?? '' } : {};
      requests.observe({ method, route: route ?? UNKNOWN_PATH, status, ...ofKey }, ms / 1000);
      if (code === undefined) return;
      errors.inc({ code });
      if (code === 'rate_limited') rateLimited.inc(ofKey);
    },
    /** Records an attempt to deliver a webhook. */
    delivery(outcome: 'delivered' | 'failed' | 'abandoned'): void {
      deliveries.inc({ outcome });
    },
    contentType: registry.contentType,
    /** The metrics in the text format of Prometheus. */
    text: () => registry.metrics(),
  };
}
