import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { adminJobSchema, adminJobsSchema } from '@sluice/contract';
import { keyIdOf } from '@sluice/shared';
import { App, cliMain, faultyWorkerMain, post, Rig, request, until } from './harness.js';

const TOKEN = 'an-admin-token-for-the-test';
const SECRET_TEXT = 'wombat marmalade';

let rig: Rig;
beforeAll(async () => {
  rig = await Rig.start();
});
afterAll(() => rig.close());

const urlOf = async (app: App) => `http://127.0.0.1:${(await app.ready()).adminPort}`;

/** The values of an admin port's metrics by series, such as `name{model="m"}`. */
async function metricsOf(adminUrl: string): Promise<Map<string, number>> {
  const { status, headers, body } = await request(`${adminUrl}/metrics`);
  expect(status).toBe(200);
  expect(headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
  const lines = String(body)
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => {
      const space = line.lastIndexOf(' ');
      return [line.slice(0, space), Number(line.slice(space + 1))] as const;
    }),
  );
}

const MODEL = 'model="minilm-l6-sst2"';

describe('metrics', () => {
  afterEach(() => rig.stopApps());

  test('the backlog is reported before a worker starts, and decreases as rows are answered', async () => {
    const { app, url } = await rig.gateway();
    const adminUrl = await urlOf(app);
    const key = await rig.key();
    const { body } = await post(`${url}/analyze_batch`, key, {
      texts: Array.from({ length: 300 }, (_, i) => `text ${i}`),
    });
    const canceled = await post(`${url}/analyze_batch`, key, { texts: ['one', 'two'] });
    const before = await metricsOf(adminUrl);
    expect(before.get(`sluice_backlog_rows{${MODEL},lane="bulk"}`)).toBe(302);
    expect(before.get(`sluice_backlog_rows{${MODEL},lane="interactive"}`)).toBe(0);
    expect(before.get('sluice_jobs{status="queued"}')).toBe(2);
    expect(before.get(`sluice_workers{${MODEL}}`)).toBe(0);
    expect(before.has(`sluice_predicted_wait_seconds{${MODEL}}`)).toBe(false);

    await post(`${url}/jobs/${canceled.body.job_id}/cancel`, key, {});
    expect((await metricsOf(adminUrl)).get(`sluice_backlog_rows{${MODEL},lane="bulk"}`)).toBe(300);
    const worker = await rig.worker();
    const workerUrl = await urlOf(worker);
    const job = async () =>
      (await request(`${url}/jobs/${body.job_id}`, { headers: { 'X-API-Key': key } })).body;
    await until('the job is completed', async () => (await job()).status === 'completed');
    const after = await metricsOf(adminUrl);
    expect(after.get(`sluice_backlog_rows{${MODEL},lane="bulk"}`)).toBe(0);
    expect(after.get('sluice_jobs{status="queued"}')).toBe(0);
    expect(after.get('sluice_jobs{status="running"}')).toBe(0);
    expect(after.get('sluice_jobs_ended_total{status="completed"}')).toBe(1);
    expect(after.get('sluice_jobs_ended_total{status="canceled"}')).toBe(1);
    expect(after.get(`sluice_predicted_wait_seconds{${MODEL}}`)).toBeGreaterThan(0);

    const ofWorker = await metricsOf(workerUrl);
    expect(ofWorker.get(`sluice_items_total{${MODEL},outcome="answer"}`)).toBe(300);
    expect(ofWorker.get(`sluice_micro_batch_rows_sum{${MODEL},lane="bulk"}`)).toBe(300);
    expect(ofWorker.get(`sluice_model_processes_ready{${MODEL}}`)).toBe(1);
  });

  test('jobs that processes of an earlier version accept or end leave no backlog', async () => {
    const { app, url } = await rig.gateway();
    const adminUrl = await urlOf(app);
    const key = await rig.key();
    const submit = async () =>
      (await post(`${url}/analyze_batch`, key, { texts: ['a', 'b'] })).body.job_id as string;
    const [old, other] = [await submit(), await submit()];
    // An earlier version did not count a job that it accepted.
    await rig.redis.hdel(`{sluice}:job:${old}`, 'rows');
    await rig.redis.hincrby('{sluice}:counts', 'queued', -1);
    await rig.redis.hincrby('{sluice}:counts', 'rows minilm-l6-sst2', -2);
    await post(`${url}/jobs/${old}/cancel`, key, {});
    const backlog = `sluice_backlog_rows{${MODEL},lane="bulk"}`;
    const found = await metricsOf(adminUrl);
    expect([found.get('sluice_jobs{status="queued"}'), found.get(backlog)]).toEqual([1, 2]);
    // Nor did it count a job that it ended: with the last job nothing is left.
    await rig.redis.hincrby('{sluice}:counts', 'rows minilm-l6-sst2', 5);
    await rig.redis.hincrby('{sluice}:counts', 'queued', 1);
    await post(`${url}/jobs/${other}/cancel`, key, {});
    const after = await metricsOf(adminUrl);
    expect([after.get('sluice_jobs{status="queued"}'), after.get(backlog)]).toEqual([0, 0]);
  });

  test('requests are counted by route and status, errors by code, and by key only with METRICS_BY_KEY', async () => {
    const worker = await rig.worker();
    const [{ app, url }, byKey] = await Promise.all([rig.gateway(), rig.gateway({ METRICS_BY_KEY: 'true' })]);
    const key = await rig.key({ limits: [{ limit: 2, windowSeconds: 60 }] });
    for (const status of [200, 200, 429])
      expect((await post(`${url}/predict`, key, { text: 'fine' })).status).toBe(status);
    await request(`${url}/jobs/0b5ed8ee-5d3c-4bd1-a2d4-4bd0a2a9d0a1`, { headers: { 'X-API-Key': key } });
    await request(`${url}/${SECRET_TEXT}`);
    const found = await metricsOf(await urlOf(app));
    const count = (fields: string) => found.get(`http_request_duration_seconds_count{${fields}}`);
    expect(count('method="POST",route="/predict",status="200"')).toBe(2);
    expect(count('method="POST",route="/predict",status="429"')).toBe(1);
    expect(count('method="GET",route="/jobs/:id",status="404"')).toBe(1);
    expect(count('method="GET",route="(no route)",status="404"')).toBe(1);
    expect(found.get('sluice_errors_total{code="not_found"}')).toBe(2);
    expect(found.get('sluice_rate_limited_total')).toBe(1);
    expect([...found.keys()].filter((series) => /key_id|wombat/.test(series))).toEqual([]);
    const ofWorker = await metricsOf(await urlOf(worker));
    const waits = `sluice_queue_wait_seconds_count{${MODEL},lane="interactive"}`;
    expect(ofWorker.get(waits)).toBe(2);
    expect(ofWorker.get(`sluice_queue_wait_seconds_sum{${MODEL},lane="interactive"}`)).toBeLessThan(5);

    expect((await post(`${byKey.url}/predict`, key, { text: 'fine' })).status).toBe(429);
    const keyed = await metricsOf(await urlOf(byKey.app));
    expect(keyed.get(`sluice_rate_limited_total{key_id="${keyIdOf(key)}"}`)).toBe(1);
  });

  test('a hung model process is counted as a restart', async () => {
    // Time for a hang together, a load and a hang alone, also on a slow machine.
    const env = { STALL_SECONDS: '0.5', REQUEST_TIMEOUT_SECONDS: '40' };
    const worker = await rig.worker(env, faultyWorkerMain);
    const { url } = await rig.gateway(env);
    const { status } = await post(`${url}/predict`, await rig.key(), { text: '«hang»' });
    expect(status).toBe(408);
    const found = await metricsOf(await urlOf(worker));
    expect(found.get(`sluice_model_process_restarts_total{${MODEL},reason="hung"}`)).toBeGreaterThanOrEqual(
      1,
    );
    expect(found.get(`sluice_model_process_restarts_total{${MODEL},reason="crashed"}`)).toBe(0);
    await until(
      'the item is counted',
      async () =>
        (await metricsOf(await urlOf(worker))).get(`sluice_items_total{${MODEL},outcome="timed_out"}`) === 1,
    );
  });

  test('metrics are served while Redis is unreachable, and sluice_redis_up is 0', async () => {
    const own = await Rig.start();
    try {
      const { app } = await own.gateway();
      const worker = await own.worker();
      const urls = await Promise.all([app, worker].map(urlOf));
      for (const url of urls) expect((await metricsOf(url)).get('sluice_redis_up')).toBe(1);
      process.kill(own.redisPid, 'SIGSTOP');
      try {
        for (const url of urls) {
          await until('the outage is shown', async () => (await metricsOf(url)).get('sluice_redis_up') === 0);
        }
        const [gateway = ''] = urls;
        const shown = [...(await metricsOf(gateway)).keys()];
        expect(shown.filter((series) => /^sluice_(jobs|backlog|workers|predicted)/.test(series))).toEqual([]);
      } finally {
        process.kill(own.redisPid, 'SIGCONT');
      }
      for (const url of urls)
        await until('Redis is back', async () => (await metricsOf(url)).get('sluice_redis_up') === 1);
    } finally {
      await own.close();
    }
  });
});

interface ExportedSpan {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  name: string;
  kind: number;
  startTimeUnixNano: string;
  endTimeUnixNano: string;
  links?: { traceId: string; spanId: string }[];
}

/** A collector that receives spans by OTLP over HTTP. */
class Collector {
  readonly spans: ExportedSpan[] = [];
  text = '';
  #server = createServer(async (incoming, response) => {
    let body = '';
    for await (const part of incoming.setEncoding('utf8')) body += part;
    this.text += body;
    for (const { scopeSpans } of JSON.parse(body).resourceSpans)
      for (const { spans } of scopeSpans) this.spans.push(...spans);
    response.writeHead(200, { 'Content-Type': 'application/json' }).end('{}');
  });

  async start(): Promise<Record<string, string>> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    const { port } = this.#server.address() as AddressInfo;
    return {
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`,
      OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json',
      OTEL_BSP_SCHEDULE_DELAY: '100',
    };
  }

  stop(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}

const INTERNAL = 1;
const SERVER = 2;
const PRODUCER = 4;
const CONSUMER = 5;

describe('traces', () => {
  afterEach(() => rig.stopApps());

  test('a trace spans request and model process, and a micro-batch is linked to the traces of all its items', async () => {
    const collector = new Collector();
    const env = await collector.start();
    try {
      const [{ app, url }, worker] = await Promise.all([rig.gateway(env), rig.worker(env)]);
      const key = await rig.key();
      const traceId = '0af7651916cd43dd8448eb211c80319c';
      const answer = await request(`${url}/predict`, {
        method: 'POST',
        headers: {
          'X-API-Key': key,
          'Content-Type': 'application/json',
          traceparent: `00-${traceId}-b7ad6b7169203331-01`,
        },
        body: JSON.stringify({ text: SECRET_TEXT }),
      });
      expect(answer.status).toBe(200);
      const spans = () => collector.spans.filter((span) => span.traceId === traceId);
      await until('the trace is exported', () => spans().length >= 5);
      const chain = [
        ['POST /predict', SERVER],
        ['send minilm-l6-sst2', PRODUCER],
        ['process minilm-l6-sst2', CONSUMER],
        ['micro-batch', INTERNAL],
        ['inference', INTERNAL],
      ] as const;
      let parentSpanId = 'b7ad6b7169203331';
      for (const [name, kind] of chain) {
        const span = spans().find((candidate) => candidate.name === name);
        expect(span).toMatchObject({ name, kind, parentSpanId });
        expect(BigInt(span?.endTimeUnixNano ?? 0)).toBeGreaterThanOrEqual(
          BigInt(span?.startTimeUnixNano ?? 1),
        );
        parentSpanId = span?.spanId ?? '';
      }

      // Requests at the same time, three of them with the same text.
      const texts = ['same', 'same', 'same', 'a b', 'c d', 'e f'].map((text) => `${SECRET_TEXT} ${text}`);
      await Promise.all(texts.map((text) => post(`${url}/predict`, key, { text })));
      const received = () => collector.spans.filter(({ name }) => name === 'process minilm-l6-sst2');
      const ran = () =>
        collector.spans.filter(
          ({ name }) => name === 'micro-batch' || name === 'micro-batch of another trace',
        );
      const traces = (of: ExportedSpan[]) => new Set(of.map((span) => span.traceId));
      // Each trace has its part in a micro-batch, also that of a text which ran with an equal one.
      await until(
        'each trace has its micro-batch and the span of its message',
        () => traces(ran()).size >= 1 + texts.length && received().length >= 1 + texts.length,
      );
      expect(received()).toHaveLength(1 + texts.length);
      const microBatches = new Map(
        collector.spans.filter(({ name }) => name === 'micro-batch').map((span) => [span.spanId, span]),
      );
      const linked = [...microBatches.values()].flatMap(({ links = [] }) => links);
      const shares = collector.spans.filter(({ name }) => name === 'micro-batch of another trace');
      expect(microBatches.size + shares.length).toBe(1 + texts.length);
      for (const { traceId: own, links = [] } of shares) {
        const shared = microBatches.get(links[0]?.spanId ?? '');
        expect(shared?.traceId).not.toBe(own);
        expect(linked.map((link) => link.traceId)).toContain(own);
      }

      const job = await post(`${url}/analyze_batch`, key, {
        texts: [1, 2, 3, 4].map((n) => `${SECRET_TEXT} ${n}`),
      });
      expect(job.status).toBe(202);
      const chunk = () => collector.spans.find(({ name }) => name === 'process chunk minilm-l6-sst2');
      await until('the chunk is exported', () => chunk() !== undefined);
      const submission = collector.spans.find(({ name }) => name === 'POST /analyze_batch');
      expect(chunk()?.links?.[0]?.traceId).toBe(submission?.traceId);
      // The items of a chunk share its span.
      await until('its run is exported', () =>
        collector.spans.some(
          ({ name, parentSpanId: of }) => name === 'micro-batch' && of === chunk()?.spanId,
        ),
      );
      expect(collector.spans.filter(({ traceId: of }) => of === chunk()?.traceId)).toHaveLength(3);
      // The last spans are exported at the end.
      await Promise.all([app.stop(), worker.stop()]);
      expect(collector.text).not.toContain(SECRET_TEXT);
      expect(collector.text).not.toContain(key);
    } finally {
      collector.stop();
    }
  });

  test('a collector that never answers delays neither requests nor the end of a drain', async () => {
    const silent = createServer(() => {});
    silent.listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const { port } = silent.address() as AddressInfo;
    const env = {
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`,
      OTEL_BSP_SCHEDULE_DELAY: '50',
    };
    try {
      const [{ app, url }, worker] = await Promise.all([rig.gateway(env), rig.worker(env)]);
      expect((await post(`${url}/predict`, await rig.key(), { text: 'fine' })).status).toBe(200);
      for (const process of [app, worker]) {
        const startMs = performance.now();
        process.child.kill('SIGTERM');
        expect(await process.exit()).toBe(0);
        // Spans are given up after 2 s, instead of the exporter's 10 s.
        expect(performance.now() - startMs).toBeLessThan(8_000);
      }
    } finally {
      silent.closeAllConnections();
      silent.close();
    }
  });

  test('a collector that cannot be reached is logged', async () => {
    const env = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:9', OTEL_BSP_SCHEDULE_DELAY: '50' };
    const { app, url } = await rig.gateway(env);
    await post(`${url}/predict`, await rig.key(), { text: 'fine' });
    await until('the log says so', () => app.output.includes('Traces may be lost'));
  });

  test('health checks and the admin port have no spans', async () => {
    const collector = new Collector();
    const { app, url } = await rig.gateway(await collector.start());
    for (const path of ['/health', '/ready']) await request(`${url}${path}`);
    await request(`${await urlOf(app)}/metrics`);
    await request(`${url}/me`, { headers: { 'X-API-Key': await rig.key() } });
    await until('a span is exported', () => collector.spans.length > 0);
    await app.stop();
    collector.stop();
    expect(collector.spans.map(({ name }) => name)).toEqual(['GET /me']);
  });
});

describe('jobs of all keys', () => {
  let adminUrl: string;
  let url: string;
  beforeAll(async () => {
    await rig.redis.flushall();
    const gateway = await rig.gateway({ ADMIN_TOKEN: TOKEN });
    url = gateway.url;
    adminUrl = await urlOf(gateway.app);
  });

  const admin = (method: string, path: string, token = TOKEN) =>
    request(`${adminUrl}${path}`, { method, headers: { Authorization: `Bearer ${token}` } });
  const list = async (query: string) =>
    adminJobsSchema.parse((await admin('GET', `/admin/jobs${query}`)).body);

  test('the operator lists jobs by key and status in pages and cancels them, without seeing texts', async () => {
    const [one, other] = await Promise.all([rig.key({ name: 'one' }), rig.key({ name: 'other' })]);
    const submit = async (key: string) =>
      (await post(`${url}/analyze_batch`, key, { texts: [SECRET_TEXT, 'b'] })).body.job_id as string;
    const first = await submit(one);
    const second = await submit(other);
    const third = await submit(one);
    const all = await admin('GET', '/admin/jobs');
    expect(JSON.stringify(all.body)).not.toContain(SECRET_TEXT);
    expect(adminJobsSchema.parse(all.body).jobs.map((job) => job.job_id)).toEqual([third, second, first]);
    expect(all.body.jobs[1]).toMatchObject({
      key_id: keyIdOf(other),
      key_name: 'other',
      status: 'queued',
      total: 2,
      items_per_second: null,
    });

    const canceled = await admin('POST', `/admin/jobs/${second}/cancel`);
    expect(adminJobSchema.parse(canceled.body)).toMatchObject({ job_id: second, status: 'canceled' });
    // A canceled job stays as it is.
    expect((await admin('POST', `/admin/jobs/${second}/cancel`)).body.finished_at).toBe(
      canceled.body.finished_at,
    );
    const own = await request(`${url}/jobs/${second}`, { headers: { 'X-API-Key': other } });
    expect(own.body).toMatchObject({ status: 'canceled', error: 'Canceled by the operator' });

    const ids = async (query: string) => (await list(query)).jobs.map((job) => job.job_id);
    expect(await ids('')).toEqual([third, first, second]);
    expect(await ids('?status=queued')).toEqual([third, first]);
    expect(await ids('?status=canceled')).toEqual([second]);
    expect(await ids(`?key=${keyIdOf(one)}`)).toEqual([third, first]);
    expect(await ids(`?key=${keyIdOf(one)}&status=canceled`)).toEqual([]);
    const paged: string[] = [];
    let cursor: string | null = null;
    do {
      const page = await list(`?limit=1${cursor ? `&cursor=${cursor}` : ''}`);
      expect(page.jobs.length).toBeLessThanOrEqual(1);
      paged.push(...page.jobs.map((job) => job.job_id));
      cursor = page.next_cursor;
    } while (cursor !== null);
    expect(paged).toEqual([third, first, second]);

    expect((await admin('GET', '/admin/jobs', 'wrong')).status).toBe(401);
    for (const query of ['status=done', `key_id=${keyIdOf(one)}`, 'status[]=queued', 'unknown=1'])
      expect([query, (await admin('GET', `/admin/jobs?${query}`)).status]).toEqual([query, 422]);
    expect((await admin('GET', `/admin/jobs/${randomUUID()}`)).status).toBe(404);
  });

  test('a filtered page has as many jobs as requested', async () => {
    const key = await rig.key();
    // Ended jobs, all but the first one completed.
    const expires = Date.now() + 3_600_000;
    const write = rig.redis.pipeline();
    for (let i = 0; i < 1_200; i++) {
      const id = `00000000-0000-4000-8000-${String(i).padStart(12, '0')}`;
      write.hset(`{sluice}:job:${id}`, {
        v: '4',
        id,
        key_id: keyIdOf(key),
        model: 'minilm-l6-sst2',
        revision: 'main',
        spec_hash: 'x',
        parameters: '{}',
        status: i === 0 ? 'failed' : 'completed',
        total: 1,
        chunks: 1,
        stored: 1,
        completed: 1,
        failed: 0,
        created_at_ms: 1_000 + i,
        finished_at_ms: 2_000 + i,
        expires_at_ms: expires,
      });
      write.zadd('{sluice}:finished', expires + i, `${keyIdOf(key)} ${id}`);
    }
    await write.exec();
    const { jobs, next_cursor } = await list('?status=failed&limit=1');
    expect(jobs.map((job) => job.created_at)).toEqual([new Date(1_000).toISOString()]);
    expect(
      next_cursor === null || (await list(`?status=failed&cursor=${next_cursor}`)).jobs.length === 0,
    ).toBe(true);
  });

  test('sluice jobs --all and cancel --all use the admin token', async () => {
    const key = await rig.key({ name: 'of the terminal' });
    const { body } = await post(`${url}/analyze_batch`, key, { texts: [SECRET_TEXT] });
    const sluice = async (env: Record<string, string>, ...args: string[]) => {
      const cli = new App(process.execPath, [cliMain, ...args], {
        ...rig.env,
        SLUICE_ADMIN_URL: adminUrl,
        ADMIN_TOKEN: TOKEN,
        ...env,
      });
      return { status: await cli.exit(), output: cli.output };
    };
    const listed = await sluice({}, 'jobs', '--all', '--key', keyIdOf(key));
    expect(listed.status).toBe(0);
    expect(listed.output).toMatch(new RegExp(`${body.job_id} +${keyIdOf(key)} +of the terminal .*queued`));
    expect(listed.output).not.toContain(SECRET_TEXT);
    const canceled = await sluice({}, 'cancel', '--all', body.job_id);
    expect([canceled.status, canceled.output]).toEqual([0, expect.stringContaining('canceled')]);
    const wrong = await sluice({ ADMIN_TOKEN: 'wrong-token-of-the-operator' }, 'jobs', '--all');
    expect([wrong.status, wrong.output]).toEqual([1, expect.stringContaining('Invalid admin token')]);
    expect((await sluice({}, 'jobs', '--key', keyIdOf(key))).status).toBe(2);
    expect((await sluice({ SLUICE_ADMIN_URL: 'http://127.0.0.1:9' }, 'jobs', '--all')).output).toContain(
      'SLUICE_ADMIN_URL',
    );
  });
});
