import { createConnection } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { type Answer, faultyWorkerMain, post, Rig, request, until } from './harness.js';

let rig: Rig;
beforeEach(async () => {
  rig = await Rig.start();
});
afterEach(() => rig.close());

const statuses = (answers: Answer[]) => answers.map(({ status }) => status).sort();
const remaining = async (url: string, key: string) =>
  (await request(`${url}/me`, { headers: { 'X-API-Key': key } })).body.limits[0].remaining;

test('of 100 simultaneous requests at two gateways exactly ten pass', async () => {
  const [one, two] = await Promise.all([rig.gateway(), rig.gateway(), rig.worker()]);
  const key = await rig.key({ limits: [] });
  const answers = await Promise.all(
    Array.from({ length: 100 }, (_, i) =>
      post(`${(i % 2 ? one : two).url}/predict`, key, { text: `number ${i}` }),
    ),
  );
  expect(statuses(answers)).toEqual([...Array(10).fill(200), ...Array(90).fill(429)]);
  const left = answers.filter(({ status }) => status === 200).map(({ body }) => body.requests_remaining);
  expect(left.sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

test('200, 408, 422, 500 and disconnects use a slot; 405 and 503 use none', async () => {
  const { url } = await rig.gateway();
  const key = await rig.key({ limits: [{ limit: 100, windowSeconds: 60 }] });
  const predict = (body: unknown) => post(`${url}/predict`, key, body);

  // Without a live worker the request is refused at once, and its slot is returned.
  const refused = await predict({ text: 'fine' });
  expect([refused.status, refused.body.code, refused.headers.get('retry-after')]).toEqual([
    503,
    'no_worker',
    '2',
  ]);
  await until('the slot is returned', async () => (await remaining(url, key)) === 100);

  await rig.worker({ MODEL_PROCESSES: '1', STALL_SECONDS: '10' }, faultyWorkerMain);
  expect((await predict({ text: 'fine' })).status).toBe(200);
  expect(await remaining(url, key)).toBe(99);
  expect((await predict({ text: '' })).status).toBe(422);
  expect(await remaining(url, key)).toBe(98);
  expect((await predict({ text: '«refuse»' })).status).toBe(500);
  expect(await remaining(url, key)).toBe(97);
  expect((await predict({ text: '«slow:600»', timeout_seconds: 0.2 })).status).toBe(408);
  expect(await remaining(url, key)).toBe(96);
  const disconnect = new AbortController();
  const gone = post(`${url}/predict`, key, { text: '«slow:1500»' }, disconnect.signal).catch(() => 'gone');
  await until('the slot is taken', async () => (await remaining(url, key)) === 95);
  disconnect.abort();
  expect(await gone).toBe('gone');
  expect((await request(`${url}/predict`, { headers: { 'X-API-Key': key } })).status).toBe(405);
  expect(await remaining(url, key)).toBe(95);
});

test.each(['SIGTERM', 'SIGHUP'] as const)(
  'a gateway that drains at %s answers the requests in flight and those that arrive on open connections',
  async (signal) => {
    const [{ app, url }, other] = await Promise.all([
      rig.gateway(),
      rig.gateway(),
      rig.worker({ MODEL_PROCESSES: '1', STALL_SECONDS: '10' }, faultyWorkerMain),
    ]);
    const key = await rig.key({ limits: [{ limit: 10, windowSeconds: 60 }] });
    // One connection waits for its response when the drain starts, and one is sending its request.
    const body = JSON.stringify({ text: '«slow:1500» last' });
    const head = `POST /predict HTTP/1.1\r\nHost: x\r\nX-API-Key: ${key}\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n`;
    const connect = () => {
      const socket = createConnection({ port: Number(new URL(url).port), host: '127.0.0.1' });
      const received = { socket, answers: '' };
      socket.on('data', (data) => {
        received.answers += data;
      });
      return received;
    };
    const waiting = connect();
    waiting.socket.write(head + body);
    const sending = connect();
    sending.socket.write(head.slice(0, 40));
    await until('the slot is taken', async () => (await remaining(other.url, key)) === 9);
    app.child.kill(signal);
    await until('it drains', () => app.output.includes('Draining'));
    sending.socket.write(head.slice(40) + body);
    expect(await app.exit()).toBe(0);
    for (const { answers } of [waiting, sending]) expect(answers).toMatch(/^HTTP\/1\.1 200 /);
    // So that clients send no further request on these connections.
    for (const { answers } of [waiting, sending]) expect(answers).toMatch(/^Connection: close\r$/m);
    expect(await remaining(other.url, key)).toBe(8);
  },
);

test.each(['SIGSTOP', 'SIGKILL'] as const)(
  'a 503 uses no slot, also when it is caused by Redis (%s)',
  async (signal) => {
    const { url } = await rig.gateway();
    await rig.worker({ MODEL_PROCESSES: '1' }, faultyWorkerMain);
    const key = await rig.key({ limits: [{ limit: 5, windowSeconds: 86_400 }] });
    for (let i = 0; i < 2; i++)
      expect((await post(`${url}/predict`, key, { text: 'fine' })).status).toBe(200);
    const inFlight = post(`${url}/predict`, key, { text: '«slow:1500» in flight' });
    await until('the slot is taken', async () => (await remaining(url, key)) === 2);
    process.kill(rig.redisPid, signal);
    expect((await inFlight).status).toBe(503);
    // Longer than the socket timeout: the connection is reopened while Redis has not read the commands on the old one.
    if (signal === 'SIGSTOP') await delay(4_000);
    if (signal === 'SIGKILL') await rig.restartRedis();
    else process.kill(rig.redisPid, 'SIGCONT');
    const left = async () =>
      (await request(`${url}/me`, { headers: { 'X-API-Key': key } })).body.limits?.[0].remaining;
    await until('the slot is returned', async () => (await left()) === 3);
    let passed = 0;
    for (let i = 0; i < 8; i++)
      passed += Number((await post(`${url}/predict`, key, { text: 'fine' })).status === 200);
    expect(passed).toBe(3);
  },
);
