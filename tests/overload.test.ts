import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { keyIdOf } from '@sluice/shared';
import { type Answer, faultyWorkerMain, post, Rig, request, until } from './harness.js';

let texts = 0;
/**
 * A different text each time, because equal ones that are pending run once. The worker runs one text at a time, a little over
 * 0.05 s each.
 */
const slowText = () => `«slow:50» text ${++texts}`;

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

const slow = (more = {}, at = url) => post(`${at}/predict`, key, { text: slowText(), ...more });
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
  // The work of 1.6 s at twenty texts a second is 32; a busy machine manages less.
  expect(answered).toBeGreaterThanOrEqual(8);
  // All of them would take 6 s, three times the deadline.
  expect(refused).toBeGreaterThan(0);
  for (const { status, headers } of answers)
    if (status === 503) expect(['1', '2']).toContain(headers.get('retry-after'));
  // A refusal does not wait for the deadline, nor for the requests before it.
  const times = (wanted: number) =>
    answers
      .filter(({ status }) => status === wanted)
      .map(({ ms }) => ms)
      .sort((a, b) => a - b);
  expect(times(503)[Math.floor(refused / 2)]).toBeLessThan(times(200).at(-1) as number);
  await until(
    'only the answered requests have used slots',
    async () => (await left()).remaining === before - answered,
  );
  // Later requests are admitted again.
  expect((await slow()).status).toBe(200);
});

test('a request with a shorter deadline is refused earlier, with a Retry-After', async () => {
  await measureRate();
  const waiting = Array.from({ length: 10 }, () => slow());
  await until('they are pending', async () => (await slow({ timeout_seconds: 0.2 })).status === 503);
  const hurried = await slow({ timeout_seconds: 0.2 });
  expect([hurried.status, hurried.body.code]).toEqual([503, 'overloaded']);
  const retryAfter = Number(hurried.headers.get('retry-after'));
  expect(retryAfter).toBeGreaterThanOrEqual(1);
  expect(retryAfter).toBeLessThanOrEqual(2);
  expect(statuses(await Promise.all(waiting))).toEqual({ answered: 10, refused: 0 });
});

test('gateways consider the unanswered requests of each other', async () => {
  await measureRate();
  const patient = await rig.gateway({ REQUEST_TIMEOUT_SECONDS: '20' });
  const second = await rig.gateway(deadline);
  const waiting = Array.from({ length: 60 }, () => slow({}, patient.url));
  await until(
    'the second gateway refuses a short deadline',
    async () => (await slow({ timeout_seconds: 0.2 }, second.url)).body.code === 'overloaded',
  );
  expect(statuses(await Promise.all(waiting))).toEqual({ answered: 60, refused: 0 });
  expect((await slow({ timeout_seconds: 1 }, second.url)).status).toBe(200);
});

test('a gateway that joins an overload late gets its fair share', async () => {
  await measureRate();
  const second = await rig.gateway(deadline);
  let pressing = true;
  /** 60 clients that each send the next request after an answer or a refusal. */
  const press = (at: string) => {
    const share = { answered: 0, ended: Promise.resolve() };
    const one = async () => {
      while (pressing) {
        const { status } = await slow({}, at);
        if (status === 200) share.answered++;
        else await new Promise((resolve) => setTimeout(resolve, 50));
      }
    };
    share.ended = Promise.all(Array.from({ length: 60 }, one)).then(() => {});
    return share;
  };
  const early = press(url);
  try {
    await until('the first is full', async () => (await slow()).status === 503);
    const before = early.answered;
    const late = press(second.url);
    await until(
      'both have answered 15 requests since the second joined',
      async () => late.answered >= 15 && early.answered - before >= 15,
      40_000,
    );
    // Equal shares; the first began with a full backlog of 1.6 s.
    expect(late.answered / (early.answered - before)).toBeGreaterThan(0.2);
    pressing = false;
    await Promise.all([early.ended, late.ended]);
  } finally {
    pressing = false;
  }
});

test('an overloaded gateway refuses a request before it takes a slot', async () => {
  await measureRate();
  const other = await rig.key();
  const limitKeys: string[] = [];
  const stop = await rig.monitor((words) => {
    limitKeys.push(...words.filter((word) => word.startsWith(`{sluice}:limit:${keyIdOf(other)}`)));
  });
  const ask = () => post(`${url}/predict`, other, { text: slowText() });
  const waiting: Promise<Answer>[] = [];
  await until('it refuses without a look at the limit', async () => {
    const burst = Array.from({ length: 60 }, () => slow());
    waiting.push(...burst);
    await Promise.any(
      burst.map(async (answer) => {
        if ((await answer).status !== 503) throw new Error('It is not overloaded');
      }),
    );
    limitKeys.length = 0;
    const { status, body, headers } = await ask();
    if (status === 200) return false;
    expect([status, body.code, headers.get('retry-after')]).toEqual([
      503,
      'overloaded',
      expect.stringMatching(/^[12]$/),
    ]);
    return limitKeys.length === 0;
  });
  await Promise.all(waiting);
  limitKeys.length = 0;
  expect((await ask()).status).toBe(200);
  expect(limitKeys.length).toBeGreaterThan(0);
  stop();
});
