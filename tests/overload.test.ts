import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { type Answer, faultyWorkerMain, post, Rig, request, until } from './harness.js';

/** The worker runs one text at a time, a little over 0.05 s each. */
const SLOW = '«slow:50» a text';

const deadline = { REQUEST_TIMEOUT_SECONDS: '2' };

let rig: Rig;
let url: string;
let key: string;

beforeEach(async () => {
  rig = await Rig.start();
  [{ url }, key] = await Promise.all([
    rig.gateway(deadline),
    rig.key({ limits: [{ limit: 1_000, windowSeconds: 600 }] }),
    rig.worker({ MODEL_PROCESSES: '1', MICRO_BATCH_TEXTS: '1' }, faultyWorkerMain),
  ]);
});
afterEach(() => rig.close());

const slow = (more = {}, at = url) => post(`${at}/predict`, key, { text: SLOW, ...more });
const statuses = (answers: readonly Answer[]) => ({
  answered: answers.filter(({ status }) => status === 200).length,
  refused: answers.filter(({ status, body }) => status === 503 && body.code === 'overloaded').length,
});

/** Waits until the worker has measured its rate, and the gateway has read it. */
async function measureRate() {
  for (let round = 0; round < 5; round++) await Promise.all([slow(), slow()]);
  await until('the gateway knows the rate', async () => {
    const [id] = await rig.redis.zrange('{sluice}:workers', '0', '-1');
    const rate = JSON.parse((await rig.redis.get(`{sluice}:worker:${id}`)) ?? '{}').models?.[0].rowsPerSecond;
    return rate > 8 && rate < 24;
  });
  // Makes the gateway read the heartbeats.
  await request(`${url}/ready`);
}

test('requests that cannot be answered in time are refused at once without using a slot; the others are answered', async () => {
  await measureRate();
  const left = async () => (await request(`${url}/me`, { headers: { 'X-API-Key': key } })).body.limits[0];
  const before = (await left()).remaining;
  const answers = await Promise.all(Array.from({ length: 120 }, () => slow()));
  const { answered, refused } = statuses(answers);
  expect(
    answers
      .filter(({ status, body }) => status !== 200 && body.code !== 'overloaded')
      .map(({ body }) => body),
  ).toEqual([]);
  expect(answered + refused).toBe(120);
  // The work of 1.6 s at nearly twenty texts a second, and less on a busy machine.
  expect(answered).toBeGreaterThanOrEqual(12);
  // All of them would take 6 s, three times the deadline.
  expect(refused).toBeGreaterThan(0);
  const slowestRefusal = Math.max(...answers.filter(({ status }) => status === 503).map(({ ms }) => ms));
  for (const { status, ms, headers } of answers) {
    // The deadline counts from when the gateway has read the body; a refusal shows how long the way to it takes.
    if (status === 200) expect(ms).toBeLessThan(2_000 + slowestRefusal);
    else expect(['1', '2']).toContain(headers.get('retry-after'));
  }
  // The last answered request waits for seconds; a refused one does not.
  expect(slowestRefusal).toBeLessThan(1_000);
  await until(
    'only the answered requests have used slots',
    async () => (await left()).remaining === before - answered,
  );
  // Later requests are admitted again.
  expect((await slow()).status).toBe(200);
});

test('a request with a shorter deadline is refused earlier, with a Retry-After', async () => {
  await measureRate();
  const waiting = Array.from({ length: 20 }, () => slow());
  await until('they are pending', async () => (await slow({ timeout_seconds: 0.2 })).status === 503);
  const hurried = await slow({ timeout_seconds: 0.2 });
  expect([hurried.status, hurried.body.code]).toEqual([503, 'overloaded']);
  const retryAfter = Number(hurried.headers.get('retry-after'));
  expect(retryAfter).toBeGreaterThanOrEqual(1);
  expect(retryAfter).toBeLessThanOrEqual(2);
  expect(statuses(await Promise.all(waiting))).toEqual({ answered: 20, refused: 0 });
});

test('gateways consider the unanswered requests of each other', async () => {
  await measureRate();
  const second = await rig.gateway(deadline);
  const waiting = Array.from({ length: 20 }, () => slow());
  await until(
    'the second gateway refuses a short deadline',
    async () => (await slow({ timeout_seconds: 0.2 }, second.url)).body.code === 'overloaded',
    3_000,
  );
  expect(statuses(await Promise.all(waiting))).toEqual({ answered: 20, refused: 0 });
  expect((await slow({ timeout_seconds: 1 }, second.url)).status).toBe(200);
});

test('a gateway that joins an overload late gets its fair share', async () => {
  await measureRate();
  const second = await rig.gateway(deadline);
  const until4s = performance.now() + 4_000;
  /** 60 clients that each send the next request after an answer or a refusal. */
  const press = async (at: string) => {
    let answered = 0;
    const one = async () => {
      while (performance.now() < until4s) {
        const { status } = await slow({}, at);
        if (status === 200) answered++;
        else await new Promise((resolve) => setTimeout(resolve, 50));
      }
    };
    await Promise.all(Array.from({ length: 60 }, one));
    return answered;
  };
  const early = press(url);
  await until('the first is full', async () => (await slow()).status === 503);
  const late = press(second.url);
  expect(await early).toBeGreaterThan(10);
  expect(await late).toBeGreaterThan(10);
});
