import { inSpan, presentSpan, type RedisClock, SpanKind, startSpan } from '@sluice/shared';
import { createMetrics as createGatewayMetrics } from '../apps/gateway/src/metrics.js';
import { createMetrics as createWorkerMetrics } from '../apps/worker/src/metrics.js';
import { modelProcesses, Rig } from '../tests/harness.js';
import { load } from './load.js';
import { measured } from './processorTime.js';
import { AS_SHIPPED, MANY } from './targets.js';

/** Requests that share a micro-batch at 64 clients. */
const PER_MICRO_BATCH = 8;
/** The pause between two scrapes of Prometheus, in seconds: of `deploy/prometheus/prometheus.yml`. */
const SCRAPE_SECONDS = 15;
const SCRAPES = 200;
const CALLS = 500_000;
/** The head of a request. */
const HEAD = { host: 'localhost', 'content-type': 'application/json', 'x-api-key': 'sk_0123456789ab_x' };

/** Processor time of a call in microseconds. */
function usOf(call: () => void): number {
  for (let i = 0; i < CALLS / 10; i++) call();
  const before = process.cpuUsage();
  for (let i = 0; i < CALLS; i++) call();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / CALLS;
}

/**
 * Processor time that metrics add: recording, measured in a loop, and scraping, measured at a running server.
 * @returns processor time in microseconds, of a request as a whole, and of what metrics and the spans that do nothing add to it
 */
export async function metricsCost(
  sentences: string,
  seconds: number,
): Promise<{ requestUs: number; recordUs: number; scrapeShare: number }> {
  const clock = { away: false } as RedisClock;
  // Recording does not touch what the other metrics are read from.
  const services = { clock, byKey: false } as Parameters<typeof createGatewayMetrics>[0];
  const gateway = createGatewayMetrics(services);
  const worker = createWorkerMetrics(clock).of('minilm-l6-sst2');
  const request = {
    method: 'POST',
    route: '/predict',
    status: 200,
    code: undefined,
    keyId: '0123456789ab',
    ms: 212,
  };
  const run = { lane: 'interactive', rows: 8, tokens: 180, longest: 25, ms: 31 } as const;
  const metricsUs =
    usOf(() => gateway.request(request)) +
    usOf(() => {
      worker.wait('interactive', 120);
      worker.item('answer');
    }) +
    usOf(() => worker.run(run)) / PER_MICRO_BATCH;

  // Without an exporter the spans of a request do nothing: one at the gateway, and the question whether there is one elsewhere.
  const noSpanUs =
    usOf(() => {
      inSpan(startSpan('POST', { kind: SpanKind.SERVER, parent: HEAD }), () => {});
    }) + usOf(() => presentSpan());

  const rig = await Rig.start({ quiet: true });
  try {
    const [{ app, url }, key, workerApp] = await Promise.all([
      rig.gateway(AS_SHIPPED),
      rig.key({ limits: [{ limit: MANY, windowSeconds: 60 }] }),
      rig.worker({ ...AS_SHIPPED, MODEL_PROCESSES: '' }),
    ]);
    const parents = { gateway: [app.pid], worker: [workerApp.pid] };
    const all = { ...parents, model: await modelProcesses(workerApp), redis: [rig.redisPid] };
    await load({ url, key }, sentences, { clients: 64, seconds: 3 });
    const { result, processorMs } = await measured(all, () =>
      load({ url, key }, sentences, { clients: 64, seconds }),
    );
    const totalMs = Object.values(processorMs).reduce((sum, ms) => sum + ms, 0);
    const ports = await Promise.all(
      [app, workerApp].map(async (process) => (await process.ready()).adminPort),
    );
    const scraped = await measured(parents, async () => {
      for (let i = 0; i < SCRAPES; i++)
        for (const port of ports) await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
    });
    const scrapeMs = Object.values(scraped.processorMs).reduce((sum, ms) => sum + ms, 0) / SCRAPES;
    return {
      requestUs: (1000 * totalMs) / result.requests,
      recordUs: metricsUs + noSpanUs,
      // Of the processor time that the server uses under this load.
      scrapeShare: scrapeMs / SCRAPE_SECONDS / (totalMs / result.seconds),
    };
  } finally {
    await rig.close();
  }
}
