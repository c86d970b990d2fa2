import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { COMMAND_TIMEOUT_MS, MESSAGE_VERSION, queueName } from '@sluice/shared';
import { Queue } from 'bullmq';
import {
  type App,
  bundledSpec,
  faultyWorkerMain,
  isRunning,
  modelProcesses,
  post,
  Rig,
  request,
  until,
} from './harness.js';

/** Less than the socket timeout of a connection to Redis (3 s). */
const SOON_MS = 2_500;

let rig: Rig;
let url: string;
let key: string;

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

const predict = (text: string) => post(`${url}/predict`, key, { text });
const faultyWorker = (env = {}) => rig.worker({ MODEL_PROCESSES: '1', ...env }, faultyWorkerMain);

async function onlyProcess(worker: App): Promise<number> {
  const [pid, ...others] = await modelProcesses(worker);
  if (pid === undefined || others.length > 0) throw new Error(`Not one model process: ${[pid, ...others]}`);
  return pid;
}

const queueOf = () =>
  new Queue(queueName(bundledSpec, 'interactive'), { connection: rig.redis, prefix: '{sluice}' });

/** The texts of all messages in the queue, also of those that a worker has taken. */
async function queuedTexts(): Promise<string[]> {
  const queue = queueOf();
  const messages = await queue.getJobs(['waiting', 'active']);
  await queue.close();
  return messages.flatMap(({ data }) => data.items.map(({ input }: { input: string }) => input));
}

/** Number of messages that were added to the queue in this test. */
const added = async () => Number(await rig.redis.get(`{sluice}:${queueName(bundledSpec, 'interactive')}:id`));

/** Numbers of messages in the queue by state. */
async function counts() {
  const queue = queueOf();
  const { active = 0, waiting = 0, failed = 0 } = await queue.getJobCounts('active', 'waiting', 'failed');
  await queue.close();
  return { active, waiting, failed };
}

test('when a model process is stopped during a run, all its texts are answered within the deadline', async () => {
  const worker = await faultyWorker();
  const stopped = await onlyProcess(worker);
  // The others become pending while the first one runs, and then run together.
  const first = predict('«slow:900» first');
  await until('the first text runs', async () => (await counts()).active === 1);
  // Of similar length, so that they share a micro-batch.
  const others = [1, 1, 800, 1, 1, 1].map((ms, i) => predict(`«slow:${ms}» so ${i}`));
  expect((await first).status).toBe(200);
  process.kill(stopped, 'SIGSTOP');

  const answers = await Promise.all(others);
  expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200, 200]);
  expect(isRunning(stopped)).toBe(false);
  expect(worker.output).toContain('"kind":"hung","items":6');
});

test('a text that hangs in both runs gets 408 in time; the texts in its micro-batch and later ones get 200', async () => {
  await faultyWorker();
  const first = predict('«slow:900» first');
  await until('the first text runs', async () => (await counts()).active === 1);
  const neighbors = ['fine', 'awful', 'good'].map((text) => predict(text));
  const hanging = predict('«hang»');
  const more = ['bad', 'great'].map((text) => predict(text));
  await first;

  const answers = await Promise.all([...neighbors, ...more]);
  expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200]);
  const hung = await hanging;
  expect([hung.status, hung.body.detail]).toEqual([408, 'Analysis timed out']);
  // The others do not wait for its second hang.
  for (const { ms } of answers) expect(ms).toBeLessThan(hung.ms);
  expect((await predict('the next text')).status).toBe(200);
});

test('a worker that was paused for 4 s kills no healthy model process', async () => {
  // Half of STALL_SECONDS is longer than a run, so no spare process starts before the pause.
  const worker = await faultyWorker({ MODEL_PROCESSES: '2', STALL_SECONDS: '3' });
  const before = await modelProcesses(worker);
  // One run whose result is in the pipe when the worker continues, and one run that is not finished.
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
  expect(worker.output).not.toMatch(/hung|Model process added/);
});

test('a text whose model process is killed runs again', async () => {
  const worker = await faultyWorker();
  const killed = await onlyProcess(worker);
  const answer = predict('«slow:900» a good film');
  await until('the text runs', async () => (await counts()).active === 1);
  process.kill(killed, 'SIGKILL');
  const { status, body } = await answer;
  expect([status, body.sentiment]).toEqual([200, 'positive']);
});

test('a text that crashes its model process twice, or that the model refuses, gets 500', async () => {
  await faultyWorker();
  for (const text of ['«crash»', '«refuse»']) {
    const { status, body } = await predict(text);
    expect([status, body.detail, body.code]).toEqual([500, 'Analysis failed', 'analysis_failed']);
  }
  expect((await predict('fine')).status).toBe(200);
});

test("a killed worker's texts are answered by another within the deadline", async () => {
  const small = { MICRO_BATCH_TEXTS: '1', STALL_SECONDS: '10' };
  const killed = await faultyWorker(small);
  await faultyWorker(small);
  await until('the gateway knows both', async () => (await request(`${url}/ready`)).body.workers === 2);
  const answers: ReturnType<typeof predict>[] = [];
  const runs = join(rig.folder, 'runs');
  writeFileSync(runs, '');
  for (let i = 1; i <= 6; i++) {
    answers.push(predict(`«slow:1000» number ${i}`));
    // Texts that arrive together would share a message.
    await until('it is in the queue', async () => (await added()) === i);
  }
  // Each worker takes two at least, one of which runs.
  await until('both have some', async () => (await counts()).active >= 4);
  await until('both run one', () => readFileSync(runs, 'utf8').split('\n').length > 2);
  killed.child.kill('SIGKILL');
  const done = await Promise.all(answers);
  expect(done.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200, 200]);
  // A text that the killed one had begun ran again.
  expect(readFileSync(runs, 'utf8').trim().split('\n').length).toBeGreaterThan(6);
});

test('when a client disconnects, its message in the queue is removed', async () => {
  await faultyWorker({ MICRO_BATCH_TEXTS: '1', STALL_SECONDS: '30' });
  const held: ReturnType<typeof predict>[] = [];
  for (let messages = 1; messages <= 4; messages++) {
    // While the first one runs, the worker takes no more than these.
    held.push(predict(messages === 1 ? '«slow:3500» first' : `number ${messages}`));
    await until('the worker has it', async () => (await counts()).active === messages);
  }
  let isFirstAnswered = false;
  void held[0]?.finally(() => {
    isFirstAnswered = true;
  });
  const disconnect = new AbortController();
  const waiting = post(`${url}/predict`, key, { text: 'never mind' }, disconnect.signal).catch(() => 'gone');
  await until('the fifth text waits', async () => (await counts()).waiting === 1);
  disconnect.abort();
  expect(await waiting).toBe('gone');
  await until('its message is gone', async () => (await counts()).waiting === 0);
  // So the worker has not taken it.
  expect(isFirstAnswered).toBe(false);
  for (const { status } of await Promise.all(held)) expect(status).toBe(200);
});

/** Sends texts while the worker is paused; resolves when all are in the queue and some share a message. */
async function gather(worker: App, send: () => void, texts: number): Promise<void> {
  await until('the queue is empty', async () => (await queuedTexts()).length === 0);
  worker.child.kill('SIGSTOP');
  // Redis delays their rate limit for a moment, so that they continue at the same time even on a slow machine.
  await rig.redis.call('CLIENT', 'PAUSE', '300', 'WRITE');
  send();
  await until('all are in the queue', async () => (await queuedTexts()).length === texts);
  const { active, waiting } = await counts();
  expect(active + waiting).toBeLessThan(texts);
}

test('when a client disconnects, its text is removed from a shared message', async () => {
  const worker = await faultyWorker();
  expect((await predict('fine')).status).toBe(200);
  const disconnect = new AbortController();
  const kept: ReturnType<typeof predict>[] = [];
  const gone: Promise<unknown>[] = [];
  const send = () => {
    for (let i = 0; i < 16; i++) {
      kept.push(predict('stays'));
      const text = ['«hang»', '«crash»'][i % 2];
      gone.push(post(`${url}/predict`, key, { text }, disconnect.signal).catch(() => 'gone'));
    }
  };
  await gather(worker, send, 32);
  disconnect.abort();
  expect(await Promise.all(gone)).toEqual(gone.map(() => 'gone'));
  await until('their texts are removed', async () => (await queuedTexts()).length === 16, 10_000);
  expect(new Set(await queuedTexts())).toEqual(new Set(['stays']));
  worker.child.kill('SIGCONT');
  for (const { status } of await Promise.all(kept)) expect(status).toBe(200);
  expect(worker.output).not.toMatch(/hung|crashed/);
});

test('a text that crashes or is refused does not affect the others in its message', async () => {
  const worker = await faultyWorker();
  expect((await predict('fine')).status).toBe(200);
  const texts = Array.from({ length: 20 }, (_, i) => ({ 5: '«crash»', 12: '«refuse»' })[i] ?? 'good');
  const answers: ReturnType<typeof predict>[] = [];
  await gather(worker, () => answers.push(...texts.map((text) => predict(text))), texts.length);
  worker.child.kill('SIGCONT');
  const done = await Promise.all(answers);
  expect(done.map(({ status }) => status)).toEqual(texts.map((text) => (text === 'good' ? 200 : 500)));
});

test('after a text that hung, further texts are not refused as overload', async () => {
  await faultyWorker();
  expect((await predict('«hang»')).status).toBe(408);
  await until('the worker has reported its rate', async () => {
    const [id] = await rig.redis.zrange('{sluice}:workers', '0', '-1');
    return JSON.parse((await rig.redis.get(`{sluice}:worker:${id}`)) ?? '{}').models?.[0].rowsPerSecond > 50;
  });
  const answers = await Promise.all(Array.from({ length: 40 }, () => predict('fine')));
  expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
});

test('a message with which too many workers have died fails', async () => {
  const worker = await faultyWorker();
  const queue = queueOf();
  const item = { id: 'one', input: 'fine', parameters: {}, deadlineMs: Date.now() + 60_000 };
  worker.child.kill('SIGSTOP');
  const message = await queue.add('items', {
    v: MESSAGE_VERSION,
    gatewayId: 'none',
    unansweredRows: 1,
    items: [item],
  });
  await rig.redis.hset(
    `{sluice}:${queueName(bundledSpec, 'interactive')}:${message.id}`,
    'defa',
    'job stalled too often',
  );
  worker.child.kill('SIGCONT');
  await until('it has failed', async () => (await counts()).failed === 1);
  await queue.close();
});

test('two workers share the messages in the queue', async () => {
  const small = { MICRO_BATCH_TEXTS: '1' };
  const workers = await Promise.all([faultyWorker(small), faultyWorker(small)]);
  await until('the gateway knows both', async () => (await request(`${url}/ready`)).body.workers === 2);
  const done = await Promise.all(Array.from({ length: 24 }, (_, i) => predict(`«slow:100» number ${i}`)));
  expect(done.map(({ status }) => status)).toEqual(done.map(() => 200));
  for (const worker of workers) {
    const { adminPort } = await worker.ready();
    const { body } = await request(`http://127.0.0.1:${adminPort}/metrics`);
    const answers = /^sluice_items_total\{[^}]*outcome="answer"\} (\d+)/m.exec(body)?.[1];
    expect(Number(answers)).toBeGreaterThanOrEqual(6);
  }
});

test('a malformed message fails and does not affect others', async () => {
  await faultyWorker();
  const queue = queueOf();
  await queue.add('text', { malformed: true });
  await until('it has failed', async () => (await counts()).failed === 1);
  await queue.close();
  expect((await predict('fine')).status).toBe(200);
});

test('a reconnect of every Redis connection loses no reply', async () => {
  await faultyWorker({ MODEL_PROCESSES: '2' });
  const answers = Array.from({ length: 12 }, (_, i) => predict(`«slow:900» number ${i}`));
  await until('all are in the queue', async () => (await queuedTexts()).length === 12);
  await rig.redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
  const done = await Promise.all(answers);
  expect(done.map(({ status }) => status)).toEqual(answers.map(() => 200));
});

test('while Redis is paused a request gets 503 before the connection times out, and 200 afterwards', async () => {
  await faultyWorker();
  expect((await predict('fine')).status).toBe(200);
  const waiting = predict('«slow:1500» in flight');
  await until('the text runs', async () => (await counts()).active === 1);
  process.kill(rig.redisPid, 'SIGSTOP');
  const [inFlight, refused] = await Promise.all([waiting, predict('refused')]);
  for (const { status, body, headers, ms } of [inFlight, refused]) {
    expect([status, body.code, headers.get('retry-after')]).toEqual([503, 'unavailable', '1']);
    expect(ms).toBeLessThan(SOON_MS);
  }
  await until(
    'requests are refused at once',
    async () => (await predict('refused')).ms < COMMAND_TIMEOUT_MS / 2,
  );
  process.kill(rig.redisPid, 'SIGCONT');
  await until('requests are served again', async () => (await predict('fine')).status === 200);
});

test('while Redis is down a request gets 503 soon, and 200 afterwards', async () => {
  await faultyWorker();
  expect((await predict('fine')).status).toBe(200);
  process.kill(rig.redisPid, 'SIGKILL');
  const { status, body, ms } = await predict('refused');
  expect([status, body.code]).toEqual([503, 'unavailable']);
  expect(ms).toBeLessThan(SOON_MS);
  await until('it is not ready', async () => (await fetch(`${url}/ready`)).status === 503);
  await rig.restartRedis();
  await until('requests are served again', async () => (await predict('fine')).status === 200);
});

test('a replacement that is paused while it loads is replaced as well', async () => {
  const worker = await faultyWorker();
  const first = await onlyProcess(worker);
  process.kill(first, 'SIGKILL');
  await until(
    'a replacement is there',
    async () => ![undefined, first].includes((await modelProcesses(worker))[0]),
  );
  process.kill(await onlyProcess(worker), 'SIGSTOP');
  // It may be silent for 10 s; then another one loads.
  await until('requests are served again', async () => (await predict('fine')).status === 200, 40_000);
});

test('an idle worker drains at once', async () => {
  const worker = await faultyWorker();
  const startMs = performance.now();
  worker.child.kill('SIGTERM');
  expect(await worker.exit()).toBe(0);
  expect(performance.now() - startMs).toBeLessThan(5_000);
});

test('a worker drains at once when Redis is down', async () => {
  const worker = await faultyWorker();
  process.kill(rig.redisPid, 'SIGKILL');
  await until('the gateway sees it', async () => (await fetch(`${url}/ready`)).status === 503);
  const startMs = performance.now();
  worker.child.kill('SIGTERM');
  expect(await worker.exit()).toBe(0);
  expect(performance.now() - startMs).toBeLessThan(5_000);
});

test('a heartbeat of another version does not hide the other workers', async () => {
  await faultyWorker();
  await rig.redis.set('{sluice}:worker:future', '{"v":2,"says":"hello"}');
  await rig.redis.zadd('{sluice}:workers', Date.now() + 3_000, 'future');
  const second = await rig.gateway();
  expect((await request(`${second.url}/ready`)).body.workers).toBe(1);
  expect((await post(`${second.url}/predict`, key, { text: 'fine' })).status).toBe(200);
});

test('a model process that is killed while it loads is started again, and the log names the signal', async () => {
  writeFileSync(join(rig.folder, 'kill-while-loading'), '');
  const worker = await faultyWorker();
  expect(worker.output).toMatch(
    /"level":40.*killed \(signal SIGKILL; out of memory\?\).*Model process ended while it loaded; starting another one/,
  );
  expect((await predict('fine')).status).toBe(200);
});

test('an idle model process that is killed is replaced, and the log names the signal', async () => {
  const worker = await faultyWorker();
  const idle = await onlyProcess(worker);
  process.kill(idle, 'SIGKILL');
  await until('the line is logged', () =>
    /"level":40.*SIGKILL; out of memory\?.*Idle model process ended/.test(worker.output),
  );
  await until('it is replaced', async () => (await modelProcesses(worker)).length === 1);
  expect((await predict('fine')).status).toBe(200);
});

test('a score that is not a number is an error of its text alone', async () => {
  const worker = await faultyWorker();
  const process = await onlyProcess(worker);
  const [nan, fine] = await Promise.all([predict('«nan»'), predict('fine')]);
  expect([nan.status, nan.body.code, fine.status]).toEqual([500, 'analysis_failed', 200]);
  const { body } = await post(`${url}/analyze_batch`, key, { texts: ['fine', '«nan»', 'fine'] });
  const headers = { 'X-API-Key': key };
  const job = async () => (await request(`${url}/jobs/${body.job_id}`, { headers })).body;
  await until('it is done', async () => (await job()).status === 'completed');
  expect(await job()).toMatchObject({ completed: 2, failed: 1 });
  const { results } = (await request(`${url}/jobs/${body.job_id}/results`, { headers })).body;
  expect(results.map(({ error }: { error?: { code: string } }) => error?.code)).toEqual([
    undefined,
    'analysis_failed',
    undefined,
  ]);
  expect(await modelProcesses(worker)).toEqual([process]);
});

test('a text of a job whose model process is killed twice from outside gets its answer; one that crashes it always gets an error', async () => {
  for (const file of ['kill-1', 'kill-2']) writeFileSync(join(rig.folder, file), '');
  const worker = await faultyWorker();
  const { body } = await post(`${url}/analyze_batch`, key, { texts: ['«unlucky»', 'fine', '«crash»'] });
  const headers = { 'X-API-Key': key };
  await until(
    'it is done',
    async () => (await request(`${url}/jobs/${body.job_id}`, { headers })).body.status === 'completed',
    50_000,
  );
  const { results } = (await request(`${url}/jobs/${body.job_id}/results`, { headers })).body;
  expect(results.map(({ error }: { error?: { code: string } }) => error?.code)).toEqual([
    undefined,
    undefined,
    'analysis_failed',
  ]);
  expect(worker.output).toMatch(/SIGKILL; out of memory\?.*Item failed when it ran alone/);
  // The third failure of the text alone is the one that counts.
  const crashes = worker.output
    .split('\n')
    .filter((line) => /\/0\/2".*Item failed when it ran alone/.test(line));
  expect(crashes).toHaveLength(3);
});

test('texts that a worker holds when their clients disconnect are not run', async () => {
  await faultyWorker({ MICRO_BATCH_TEXTS: '1', STALL_SECONDS: '10' });
  const runs = join(rig.folder, 'runs');
  writeFileSync(runs, '');
  const abort = new AbortController();
  const lost = Array.from({ length: 12 }, (_, i) =>
    post(`${url}/predict`, key, { text: `«slow:700» ${i}` }, abort.signal).catch(() => 'gone'),
  );
  const queue = new Queue(queueName(bundledSpec, 'interactive'), {
    connection: rig.redis,
    prefix: '{sluice}',
  });
  const held = async () => (await queue.getActive()).reduce((sum, { data }) => sum + data.items.length, 0);
  // One that runs, and three to choose from.
  await until('the worker holds four texts', async () => (await held()) >= 4);
  await until('one runs', () => readFileSync(runs, 'utf8') !== '');
  abort.abort();
  await Promise.all(lost);
  expect((await predict('fine')).status).toBe(200);
  await queue.close();
  // The one that was running, and perhaps one that began while the clients hung up; the last text.
  expect(readFileSync(runs, 'utf8').trim().split('\n').length).toBeLessThanOrEqual(3);
});

test('long sweeps do not overlap, of one gateway or of two', async () => {
  await rig.gateway();
  // Each sweep takes longer than its lease (5 s).
  const callers = Array.from(
    { length: 20_000 },
    (_, i) => `minilm-l6-sst2 ${i.toString(16).padStart(12, '0')}`,
  );
  /** Number of callers that were looked at when each sweep began. */
  const begun: number[] = [];
  let lookedAt = 0;
  const stop = await rig.monitor(([command = '', key = '', field = '']) => {
    if (command.toLowerCase() === 'hget' && field === 'revoked_at_ms') lookedAt++;
    if (command.toLowerCase() === 'smembers' && key === '{sluice}:callers' && lookedAt > 0)
      begun.push(lookedAt);
  });
  try {
    await rig.redis.sadd('{sluice}:callers', ...callers);
    await until('the next two sweeps have begun', () => begun.length >= 2, 150_000);
  } finally {
    stop();
  }
  expect(begun.slice(0, 2)).toEqual([callers.length, 2 * callers.length]);
}, 170_000);
