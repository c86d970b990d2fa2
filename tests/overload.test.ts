import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { type Answer, faultyWorkerMain, post, Rig, request, until } from './harness.js';

/** One text after the other, a bit over 0.05 s each. */
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

/** Lets the worker find out how fast it is, and the gateway hear of it. */
async function learn() {
  for (let round = 0; round < 5; round++) await Promise.all([slow(), slow()]);
  await until('the gateway knows the rate', async () => {
    const [id] = await rig.redis.zrange('{sluice}:workers', '0', '-1');
    const beat = JSON.parse((await rig.redis.get(`{sluice}:worker:${id}`)) ?? '{}');
    return beat.textsPerSecond > 8 && beat.textsPerSecond < 24;
  });
  // Has the gateway look at the fleet.
  await request(`${url}/ready`);
}

test('what could not be answered in time is refused at once and costs nothing; the rest is answered', async () => {
  await learn();
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
  // 1.6 s' worth, at nearly twenty a second.
  expect(answered).toBeGreaterThanOrEqual(12);
  expect(answered).toBeLessThanOrEqual(36);
  for (const { status, ms, headers } of answers) {
    if (status === 200) expect(ms).toBeLessThan(2_000);
    else expect(['1', '2']).toContain(headers.get('retry-after'));
  }
  // The last of those that are answered waits for seconds; who is refused does not.
  const slowestRefusal = Math.max(...answers.filter(({ status }) => status === 503).map(({ ms }) => ms));
  expect(slowestRefusal).toBeLessThan(1_000);
  await until('nothing but the answers has cost', async () => (await left()).remaining === before - answered);
  // Nothing is held against those that come once there is room.
  expect((await slow()).status).toBe(200);
});

test('who has less time is refused sooner, and told how long to wait', async () => {
  await learn();
  const waiting = Array.from({ length: 20 }, () => slow());
  await until('they wait', async () => (await slow({ timeout_seconds: 0.2 })).status === 503);
  const hurried = await slow({ timeout_seconds: 0.2 });
  expect([hurried.status, hurried.body.code]).toEqual([503, 'overloaded']);
  const retryAfter = Number(hurried.headers.get('retry-after'));
  expect(retryAfter).toBeGreaterThanOrEqual(1);
  expect(retryAfter).toBeLessThanOrEqual(2);
  expect(statuses(await Promise.all(waiting))).toEqual({ answered: 20, refused: 0 });
});

test('gateways know of what waits at each other', async () => {
  await learn();
  const second = await rig.gateway(deadline);
  const waiting = Array.from({ length: 20 }, () => slow());
  await until(
    'the second gateway refuses what has little time',
    async () => (await slow({ timeout_seconds: 0.2 }, second.url)).body.code === 'overloaded',
    3_000,
  );
  expect(statuses(await Promise.all(waiting))).toEqual({ answered: 20, refused: 0 });
  expect((await slow({ timeout_seconds: 1 }, second.url)).status).toBe(200);
});

test('a gateway that comes late to an overload gets its share', async () => {
  await learn();
  const second = await rig.gateway(deadline);
  const until4s = performance.now() + 4_000;
  /** So many callers that send again as soon as they have an answer, or are refused. */
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
