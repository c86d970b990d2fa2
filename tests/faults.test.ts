import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { queueName } from '@sluice/shared';
import { Queue } from 'bullmq';
import {
  type App,
  faultyWorkerMain,
  isRunning,
  modelProcesses,
  post,
  Rig,
  request,
  until,
} from './harness.js';

let rig: Rig;
let url: string;
let key: string;

beforeEach(async () => {
  rig = await Rig.start();
  [{ url }, key] = await Promise.all([rig.gateway(), rig.key()]);
});
afterEach(() => rig.close());

const predict = (text: string) => post(`${url}/predict`, key, { text });
const faultyWorker = (env = {}) => rig.worker({ MODEL_PROCESSES: '1', ...env }, faultyWorkerMain);

async function onlyProcess(worker: App): Promise<number> {
  const [pid, ...others] = await modelProcesses(worker);
  if (pid === undefined || others.length > 0) throw new Error(`Not one model process: ${[pid, ...others]}`);
  return pid;
}

const queueOf = () =>
  new Queue(queueName('minilm-l6-sst2', 'interactive'), { connection: rig.redis, prefix: '{sluice}' });

/** The texts of every job in the queue, taken or not. */
async function textsInJobs(): Promise<string[]> {
  const queue = queueOf();
  const jobs = await queue.getJobs(['waiting', 'active']);
  await queue.close();
  return jobs.flatMap(({ data }) => data.texts.map(({ text }: { text: string }) => text));
}

/** A queue as BullMQ sees it. */
async function counts() {
  const queue = queueOf();
  const { active = 0, waiting = 0, failed = 0 } = await queue.getJobCounts('active', 'waiting', 'failed');
  await queue.close();
  return { active, waiting, failed };
}

test('texts whose model process is stopped under them are all answered within the deadline', async () => {
  const worker = await faultyWorker();
  const stopped = await onlyProcess(worker);
  // While the first runs the others gather; they then run together.
  const first = predict('«slow:400» first');
  await until('the first text runs', async () => (await counts()).active === 1);
  // Of one length, so that they go together.
  const others = [1, 1, 800, 1, 1, 1].map((ms) => predict(`«slow:${ms}» so so`));
  expect((await first).status).toBe(200);
  process.kill(stopped, 'SIGSTOP');

  const answers = await Promise.all(others);
  expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200, 200]);
  expect(Math.max(...answers.map(({ ms }) => ms))).toBeLessThan(5_000);
  expect(isRunning(stopped)).toBe(false);
  expect(worker.output).toContain('"kind":"hung","texts":6');
});

test('a text that hangs its process in both runs gets 408 in time, its mates 200, and the next is served', async () => {
  await faultyWorker();
  const first = predict('«slow:400» first');
  await until('the first text runs', async () => (await counts()).active === 1);
  const mates = ['fine', 'awful', 'good'].map((text) => predict(text));
  const poison = predict('«hang»');
  const more = ['bad', 'great'].map((text) => predict(text));
  await first;

  const answers = await Promise.all([...mates, ...more]);
  expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200]);
  const hung = await poison;
  expect([hung.status, hung.body.detail]).toEqual([408, 'Analysis timed out']);
  expect(hung.ms).toBeLessThan(5_000);
  // The mates do not wait for its second hang: 2 s for the first, and a run.
  for (const { ms } of answers) expect(ms).toBeLessThan(4_500);
  expect((await predict('and on it goes')).status).toBe(200);
});

test('a worker that was stopped for 4 s kills no healthy model process', async () => {
  const worker = await faultyWorker({ MODEL_PROCESSES: '2' });
  const before = await modelProcesses(worker);
  // One whose answer lies in the pipe when the worker goes on, and one that still runs.
  const answers = [predict('«slow:1200» patience')];
  await until('the text runs', async () => (await counts()).active === 1);
  const long = before[1] ?? 0;
  answers.push(predict('«slow:1200» more patience'));
  await until('both run', async () => (await counts()).active === 2);
  process.kill(long, 'SIGSTOP');
  worker.child.kill('SIGSTOP');
  await delay(4_000);
  worker.child.kill('SIGCONT');
  await delay(300);
  process.kill(long, 'SIGCONT');
  await Promise.all(answers);
  expect(await modelProcesses(worker)).toEqual(before);
  expect(worker.output).not.toMatch(/hung|Another model process/);
});

test('a text whose model process is killed is tried once more', async () => {
  const worker = await faultyWorker();
  const killed = await onlyProcess(worker);
  const answer = predict('«slow:500» a good film');
  await until('the text runs', async () => (await counts()).active === 1);
  process.kill(killed, 'SIGKILL');
  const { status, body } = await answer;
  expect([status, body.sentiment]).toEqual([200, 'positive']);
});

test('a text that kills its model process twice, or that the model refuses, gets 500', async () => {
  await faultyWorker();
  for (const text of ['«crash»', '«refuse»']) {
    const { status, body } = await predict(text);
    expect([status, body.detail, body.code]).toEqual([500, 'Analysis failed', 'analysis_failed']);
  }
  expect((await predict('fine')).status).toBe(200);
});

test("a killed worker's texts are answered by another within the deadline", async () => {
  const small = { MICRO_BATCH_TEXTS: '1' };
  const killed = await faultyWorker(small);
  await faultyWorker(small);
  const answers: ReturnType<typeof predict>[] = [];
  for (let jobs = 1; jobs <= 6; jobs++) {
    answers.push(predict(`«slow:400» number ${jobs}`));
    await until('it is a job of its own', async () => (await counts()).active === jobs);
  }
  // A worker holds four texts at most, so both have work.
  killed.child.kill('SIGKILL');
  const done = await Promise.all(answers);
  expect(done.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200, 200]);
  expect(Math.max(...done.map(({ ms }) => ms))).toBeLessThan(5_000);
});

test('a caller that hangs up takes its waiting job with it', async () => {
  await faultyWorker({ MICRO_BATCH_TEXTS: '1' });
  const held: ReturnType<typeof predict>[] = [];
  for (let jobs = 1; jobs <= 4; jobs++) {
    held.push(predict('«slow:600» long'));
    await until('the worker has it', async () => (await counts()).active === jobs);
  }
  const hangUp = new AbortController();
  const waiting = post(`${url}/predict`, key, { text: 'never mind' }, hangUp.signal).catch(() => 'gone');
  await until('the second text waits', async () => (await counts()).waiting === 1);
  hangUp.abort();
  expect(await waiting).toBe('gone');
  await until('its job is gone', async () => (await counts()).waiting === 0, 1_000);
  for (const { status } of await Promise.all(held)) expect(status).toBe(200);
});

/** Sends texts while the worker is stopped; resolves once all are in the queue, some of them in one job. */
async function gather(worker: App, send: () => void, texts: number): Promise<void> {
  await until('nothing is under way', async () => (await textsInJobs()).length === 0);
  worker.child.kill('SIGSTOP');
  // Redis holds their places in the limit back for a moment, and then they go on together, however slow the machine is.
  await rig.redis.call('CLIENT', 'PAUSE', '300', 'WRITE');
  send();
  await until('all are in the queue', async () => (await textsInJobs()).length === texts);
  const { active, waiting } = await counts();
  expect(active + waiting).toBeLessThan(texts);
}

test('a caller that hangs up takes its text out of a job that it shares', async () => {
  const worker = await faultyWorker();
  expect((await predict('fine')).status).toBe(200);
  const hangUp = new AbortController();
  const kept: ReturnType<typeof predict>[] = [];
  const gone: Promise<unknown>[] = [];
  const send = () => {
    for (let i = 0; i < 16; i++) {
      kept.push(predict('stays'));
      const text = ['«hang»', '«crash»'][i % 2];
      gone.push(post(`${url}/predict`, key, { text }, hangUp.signal).catch(() => 'gone'));
    }
  };
  await gather(worker, send, 32);
  hangUp.abort();
  expect(await Promise.all(gone)).toEqual(gone.map(() => 'gone'));
  await until('theirs are out', async () => (await textsInJobs()).length === 16, 1_000);
  expect(new Set(await textsInJobs())).toEqual(new Set(['stays']));
  worker.child.kill('SIGCONT');
  for (const { status } of await Promise.all(kept)) expect(status).toBe(200);
  expect(worker.output).not.toMatch(/hung|crashed/);
});

test('texts of one job that crash or are refused do not take the others with them', async () => {
  const worker = await faultyWorker();
  expect((await predict('fine')).status).toBe(200);
  const texts = Array.from({ length: 20 }, (_, i) => ({ 5: '«crash»', 12: '«refuse»' })[i] ?? 'good');
  const answers: ReturnType<typeof predict>[] = [];
  await gather(worker, () => answers.push(...texts.map((text) => predict(text))), texts.length);
  worker.child.kill('SIGCONT');
  const done = await Promise.all(answers);
  expect(done.map(({ status }) => status)).toEqual(texts.map((text) => (text === 'good' ? 200 : 500)));
});

test('after a text that hung, those that come are not refused for it', async () => {
  await faultyWorker();
  expect((await predict('«hang»')).status).toBe(408);
  await until('the worker has told how fast it is', async () => {
    const [id] = await rig.redis.zrange('{sluice}:workers', '0', '-1');
    return JSON.parse((await rig.redis.get(`{sluice}:worker:${id}`)) ?? '{}').textsPerSecond > 50;
  });
  const answers = await Promise.all(Array.from({ length: 40 }, () => predict('fine')));
  expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
});

test('a job that too many workers have died under fails', async () => {
  const worker = await faultyWorker();
  const queue = queueOf();
  const text = { id: 'one', text: 'fine', topK: 1, deadlineMs: Date.now() + 60_000 };
  worker.child.kill('SIGSTOP');
  const job = await queue.add('texts', { v: 2, gatewayId: 'none', texts: [text] });
  await rig.redis.hset(`{sluice}:minilm-l6-sst2-interactive:${job.id}`, 'defa', 'job stalled too often');
  worker.child.kill('SIGCONT');
  await until('it has failed', async () => (await counts()).failed === 1);
  await queue.close();
});

test('a text that comes from a gateway of the version before is answered in its version', async () => {
  await faultyWorker();
  const stream = '{sluice}:replies:earlier';
  await rig.redis.xadd(stream, '*', 'opened', '1');
  const queue = queueOf();
  const text = { id: 'one', text: 'fine', topK: 1, deadlineMs: Date.now() + 5_000 };
  await queue.add('text', { v: 1, ...text, gatewayId: 'earlier' });
  await until('there is a reply', async () => (await rig.redis.xlen(stream)) === 2);
  await queue.close();
  const [, [, fields] = ['', []]] = await rig.redis.xrange(stream, '-', '+');
  expect(JSON.parse(fields[1] ?? '')).toMatchObject({ v: 1, id: 'one', outcome: { kind: 'answer' } });
});

test('two workers share what waits', async () => {
  const small = { MICRO_BATCH_TEXTS: '1' };
  const seconds = async () => {
    const startMs = performance.now();
    const done = await Promise.all(Array.from({ length: 24 }, (_, i) => predict(`«slow:100» number ${i}`)));
    expect(done.map(({ status }) => status)).toEqual(done.map(() => 200));
    return (performance.now() - startMs) / 1000;
  };
  await faultyWorker(small);
  const alone = await seconds();
  await faultyWorker(small);
  // Half of it, and no more than two texts' time for the end, where one has nothing more to do.
  expect(await seconds()).toBeLessThan(0.5 * alone + 0.25);
});

test('a job that nobody could have put there fails and harms nobody', async () => {
  await faultyWorker();
  const queue = queueOf();
  await queue.add('text', { rubbish: true });
  await until('it has failed', async () => (await counts()).failed === 1);
  await queue.close();
  expect((await predict('fine')).status).toBe(200);
});

test('a reconnect of every Redis connection loses no reply', async () => {
  await faultyWorker({ MODEL_PROCESSES: '2' });
  const answers = Array.from({ length: 12 }, (_, i) => predict(`«slow:600» number ${i}`));
  await until('all are in the queue', async () => (await textsInJobs()).length === 12);
  await rig.redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
  const done = await Promise.all(answers);
  expect(done.map(({ status }) => status)).toEqual(answers.map(() => 200));
});

test('with Redis stopped a request gets 503 within a second, and 200 when it goes on', async () => {
  await faultyWorker();
  expect((await predict('fine')).status).toBe(200);
  const waiting = predict('«slow:1500» caught in the middle');
  await until('the text runs', async () => (await counts()).active === 1);
  process.kill(rig.redisPid, 'SIGSTOP');
  const [caught, refused] = await Promise.all([waiting, predict('refused')]);
  for (const { status, body, headers, ms } of [caught, refused]) {
    expect([status, body.code, headers.get('retry-after')]).toEqual([503, 'unavailable', '1']);
    expect(ms).toBeLessThan(1_250);
  }
  expect(refused.ms).toBeLessThan(1_000);
  await until('it is refused at once', async () => (await predict('refused')).ms < 100, 1_000);
  process.kill(rig.redisPid, 'SIGCONT');
  await until('service again', async () => (await predict('fine')).status === 200, 3_000);
});

test('with Redis gone a request gets 503 within a second, and 200 when it is back', async () => {
  await faultyWorker();
  expect((await predict('fine')).status).toBe(200);
  process.kill(rig.redisPid, 'SIGKILL');
  const { status, body, ms } = await predict('refused');
  expect([status, body.code]).toEqual([503, 'unavailable']);
  expect(ms).toBeLessThan(1_000);
  await until('it is not ready', async () => (await fetch(`${url}/ready`)).status === 503);
  await rig.restartRedis();
  await until('service again', async () => (await predict('fine')).status === 200, 5_000);
});

test('a replacement that is stopped while it loads is replaced too', async () => {
  const worker = await faultyWorker();
  const first = await onlyProcess(worker);
  process.kill(first, 'SIGKILL');
  await until(
    'a replacement is there',
    async () => ![undefined, first].includes((await modelProcesses(worker))[0]),
  );
  process.kill(await onlyProcess(worker), 'SIGSTOP');
  await until('service again', async () => (await predict('fine')).status === 200, 15_000);
});

test('an idle worker drains at once', async () => {
  const worker = await faultyWorker();
  const startMs = performance.now();
  worker.child.kill('SIGTERM');
  expect(await worker.exit()).toBe(0);
  // A fetch from the queue waits for five.
  expect(performance.now() - startMs).toBeLessThan(3_000);
});

test('a worker drains at once when Redis is gone', async () => {
  const worker = await faultyWorker();
  process.kill(rig.redisPid, 'SIGKILL');
  await until('the gateway sees it', async () => (await fetch(`${url}/ready`)).status === 503);
  const startMs = performance.now();
  worker.child.kill('SIGTERM');
  expect(await worker.exit()).toBe(0);
  expect(performance.now() - startMs).toBeLessThan(3_000);
});

test('a worker of another version does not blind a gateway to the rest', async () => {
  await faultyWorker();
  await rig.redis.set('{sluice}:worker:future', '{"v":2,"says":"hello"}');
  await rig.redis.zadd('{sluice}:workers', Date.now() + 3_000, 'future');
  const second = await rig.gateway();
  expect((await request(`${second.url}/ready`)).body.workers).toBe(1);
  expect((await post(`${second.url}/predict`, key, { text: 'fine' })).status).toBe(200);
});
