import { once } from 'node:events';
import { Agent, request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { queueName } from '@sluice/shared';
import { Queue } from 'bullmq';
import {
  type App,
  bundledSpec,
  catchesSignals,
  faultyWorkerMain,
  gatewayMain,
  modelProcesses,
  post,
  Rig,
  request,
  root,
  until,
  workerMain,
} from './harness.js';

let rig: Rig;
let key: string;
let url: string;
let gateway: App;
beforeAll(async () => {
  rig = await Rig.start();
  ({ url, app: gateway } = await rig.gateway());
});
beforeEach(async () => {
  key = await rig.key();
});
afterEach(() => rig.reset(gateway));
afterAll(() => rig.close());

/** Sends SIGTERM; resolves to the exit status and how long the exit took. */
async function terminate(app: App): Promise<{ status: number | null; ms: number }> {
  const startMs = performance.now();
  app.child.kill('SIGTERM');
  const status = await app.exit();
  return { status, ms: performance.now() - startMs };
}

describe.each([
  ['gateway', gatewayMain],
  ['worker', workerMain],
])('a %s that is starting', (_name, main) => {
  test.each([0, 200, 500, 1_000])('exits with 0 at SIGTERM %d ms after its program began', async (ms) => {
    const app = rig.spawn(main, { DRAIN_SECONDS: '10', MODEL_PROCESSES: '1' });
    await until('its program has begun', () => catchesSignals(app.pid));
    await delay(ms);
    expect((await terminate(app)).status).toBe(0);
  });
});

test('a worker that loads its second model finishes the messages of the first one before it exits', async () => {
  const models = rig.models([
    { id: bundledSpec.id, task: bundledSpec.task, source: join(root, 'models', bundledSpec.id) },
    { id: 'all-minilm-l6-v2', task: 'feature-extraction', source: join(root, 'models/all-minilm-l6-v2') },
  ]);
  const other = await rig.gateway(models);
  const worker = rig.spawn(faultyWorkerMain, { ...models, MODEL_PROCESSES: '1' });
  await until('the first model is served', async () => {
    const { body } = await request(`${other.url}/models`, { headers: { 'X-API-Key': key } });
    return body[0].workers === 1;
  });
  const answer = post(`${other.url}/predict`, key, { text: '«slow:1500» fine' });
  await until(
    'the worker has the text',
    async () => (await rig.redis.keys('{sluice}:*-interactive:active')).length === 1,
  );
  expect(worker.output).not.toContain('Worker ready');
  expect((await terminate(worker)).status).toBe(0);
  expect((await answer).status).toBe(200);
});

test('a worker returns the chunks that it cannot finish in time to the queue, and another one runs them', async () => {
  const env = { MICRO_BATCH_TEXTS: '1', STALL_SECONDS: '30', DRAIN_SECONDS: '2' };
  const worker = await rig.worker(env, faultyWorkerMain);
  const texts = Array.from({ length: 96 }, (_, i) => (i < 48 ? `«slow:200» number ${i}` : `number ${i}`));
  const { body } = await post(`${url}/analyze_batch`, key, { texts });
  const queue = new Queue(queueName(bundledSpec, 'bulk'), { connection: rig.redis, prefix: '{sluice}' });
  await until('the worker has chunks', async () => (await queue.getActiveCount()) === 2);
  const { status, ms } = await terminate(worker);
  expect(status).toBe(0);
  expect(ms).toBeLessThan(2_500);
  const counts = await queue.getJobCounts('active', 'waiting');
  expect(counts).toEqual({ active: 0, waiting: 3 });
  await queue.close();

  await rig.worker({}, faultyWorkerMain);
  const headers = { 'X-API-Key': key };
  const job = async () => (await request(`${url}/jobs/${body.job_id}`, { headers })).body;
  await until('the job has ended', async () => (await job()).status === 'completed');
  expect(await job()).toMatchObject({ completed: 96, failed: 0 });
});

test('a gateway that drains answers new requests on open connections, accepts no others, and says that it drains', async () => {
  await rig.worker();
  const draining = await rig.gateway({ DRAIN_SECONDS: '10' });
  const { port } = new URL(draining.url);
  // Browsers and load balancers open connections on which they send nothing.
  const silent = connect(Number(port), '127.0.0.1');
  await once(silent, 'connect');
  const socket = connect(Number(port), '127.0.0.1');
  let received = '';
  socket.setEncoding('utf8').on('data', (text) => {
    received += text;
  });
  const body = '{"text": "fine"}';
  const send = () =>
    socket.write(
      `POST /predict HTTP/1.1\r\nHost: x\r\nX-API-Key: ${key}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    );
  send();
  await until('the first answer is there', () => received.includes('"status":"success"'));
  expect(received).toMatch(/^HTTP\/1\.1 200 OK[\s\S]*Connection: keep-alive/);
  received = '';
  const { adminPort } = await draining.app.ready();
  const exited = terminate(draining.app);
  await until('it drains', async () => {
    const ready = await request(`http://127.0.0.1:${adminPort}/ready`);
    return ready.status === 503 && ready.body.code === 'shutting_down';
  });
  const another = connect(Number(port), '127.0.0.1');
  expect((await once(another, 'error'))[0].code).toBe('ECONNREFUSED');
  send();
  await until('the second answer is there', () => received.includes('"status":"success"'));
  expect(received).toMatch(/^HTTP\/1\.1 200 OK[\s\S]*Connection: close/);
  const { status, ms } = await exited;
  expect(status).toBe(0);
  // The silent connection does not delay the exit until the end of the drain.
  expect(ms).toBeLessThan(5_000);
  silent.destroy();
});

test('a gateway that drains answers what it cannot finish in time with 503, which uses no slot and creates no job', async () => {
  await rig.worker({ STALL_SECONDS: '30' }, faultyWorkerMain);
  const draining = await rig.gateway({ DRAIN_SECONDS: '2' });
  key = await rig.key({ limits: [{ limit: 10, windowSeconds: 60 }] });
  const headersOf = { 'X-API-Key': key };
  const freeSlots = async () => (await request(`${url}/me`, { headers: headersOf })).body.limits[0].remaining;
  const ended = new AbortController();
  async function* unfinished() {
    yield Buffer.from('"one"\n');
    await once(ended.signal, 'abort');
  }
  const upload = request(`${draining.url}/analyze_batch`, {
    method: 'POST',
    headers: { ...headersOf, 'Content-Type': 'application/x-ndjson' },
    body: ReadableStream.from(unfinished()),
    duplex: 'half',
  } as RequestInit);
  const answer = post(`${draining.url}/predict`, key, { text: '«slow:6000» fine' });
  await until('the text runs', async () => {
    const queue = new Queue(queueName(bundledSpec, 'interactive'), {
      connection: rig.redis,
      prefix: '{sluice}',
    });
    const active = await queue.getActiveCount();
    await queue.close();
    return active === 1;
  });
  await until('both use a slot', async () => (await freeSlots()) === 8);
  const { status, ms } = await terminate(draining.app);
  expect(status).toBe(0);
  expect(ms).toBeLessThan(2_500);
  for (const { status: code, body, headers } of [await answer, await upload])
    expect([code, body.code, headers.get('retry-after')]).toEqual([503, 'shutting_down', '2']);
  ended.abort();
  expect(await freeSlots()).toBe(10);
  expect((await request(`${url}/jobs`, { headers: headersOf })).body.jobs).toEqual([]);
});

/** Sends a request on a kept connection; resolves to the status, and the body of an error. Rejects with the system's error. */
function send(at: string, agent: Agent, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const sent = httpRequest(`${at}/predict`, {
      agent,
      method: 'POST',
      headers: { 'X-API-Key': key, 'Content-Type': 'application/json' },
    });
    sent.on('error', reject);
    sent.on('response', (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (part) => {
        body += part;
      });
      response.on('end', () =>
        resolve(response.statusCode === 200 ? '200' : `${response.statusCode} ${body}`),
      );
      response.on('error', reject);
    });
    sent.end(JSON.stringify({ text }));
  });
}

test('when all gateways and workers are restarted one by one, no request and no job fails', async () => {
  const gateways = await Promise.all([rig.gateway(), rig.gateway()]);
  const workers = await Promise.all([rig.worker(), rig.worker()]);
  const agent = new Agent({ keepAlive: true });
  const answered = new Set<string>();
  let stopped = false;
  let refused = 0;
  /** A client that uses the gateways in turn, and another gateway only when a connection is refused. */
  const client = async (number: number) => {
    for (let i = number; !stopped; i++) {
      for (let attempt = 0; ; attempt++) {
        const gateway = gateways[(i + attempt) % gateways.length];
        try {
          answered.add(await send(gateway?.url ?? '', agent, `fine ${i}`));
          break;
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'ECONNREFUSED' || attempt > 4) throw error;
          refused++;
        }
      }
      // Connections are also idle at times.
      await delay(10 * (i % 5));
    }
  };
  const texts = Array.from({ length: 2_000 }, (_, i) => `text ${i}`);
  const { body } = await post(`${url}/analyze_batch`, key, { texts });
  const clients = Promise.all(Array.from({ length: 8 }, (_, i) => client(i)));
  // A failed client ends the test at once.
  const restart = async () => {
    for (const [i, worker] of workers.entries()) {
      workers[i] = await rig.worker();
      expect((await terminate(worker)).status).toBe(0);
      // The new worker must have loaded its model.
      expect(await modelProcesses(workers[i])).toHaveLength(1);
    }
    for (const [i, { app, url: at }] of gateways.entries()) {
      expect((await terminate(app)).status).toBe(0);
      gateways[i] = await rig.gateway({ PORT: new URL(at).port });
    }
  };
  await Promise.race([restart(), clients]);
  stopped = true;
  await clients;
  agent.destroy();
  expect([...answered]).toEqual(['200']);
  expect(refused).toBeGreaterThan(0);
  const job = async () =>
    (await request(`${url}/jobs/${body.job_id}`, { headers: { 'X-API-Key': key } })).body;
  await until('the job has ended', async () => (await job()).status === 'completed');
  expect(await job()).toMatchObject({ completed: 2_000, failed: 0 });
}, 120_000);
