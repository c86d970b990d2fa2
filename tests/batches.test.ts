import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { enqueueChunks, Keyring, messageId, queueName } from '@sluice/shared';
import { Queue } from 'bullmq';
import {
  type Answer,
  type App,
  bundledSpec,
  faultyWorkerMain,
  isRunning,
  modelProcesses,
  post,
  Rig,
  request,
  root,
  until,
} from './harness.js';

/** Waits until Redis has the same keys as before. */
async function expectKeys(before: string[]) {
  await until('the other keys are gone', async () => (await jobKeys()).length === before.length).catch(
    () => {},
  );
  expect(await jobKeys()).toEqual(before);
}

let rig: Rig;
let url: string;
let gateway: App;
let key: string;

/** The gateway of all tests; a test may end it, or use another one. */
let shared: { app: App; url: string };
beforeAll(async () => {
  rig = await Rig.start();
});
beforeEach(async () => {
  if (!shared || !isRunning(shared.app.pid)) shared = await rig.gateway({ MAX_BATCH_TEXTS: '5000' });
  ({ url, app: gateway } = shared);
  key = await rig.key();
});
afterEach(() => rig.reset(shared.app));
afterAll(() => rig.close());

const sentences = readFileSync(join(root, 'tests/data/sst2-100.tsv'), 'utf8')
  .trim()
  .split('\n')
  .slice(1)
  .map((row) => row.split('\t')[0] ?? '');
const repeated = (count: number) =>
  Array.from({ length: count }, (_, i) => sentences[i % sentences.length] ?? '');

const get = (path: string, headers: Record<string, string> = {}, by = key) =>
  request(`${url}${path}`, { headers: { 'X-API-Key': by, ...headers } });
const submit = (texts: unknown, headers: Record<string, string> = {}, by = key) =>
  request(`${url}/analyze_batch`, {
    method: 'POST',
    headers: { 'X-API-Key': by, 'Content-Type': 'application/json', ...headers },
    body: JSON.stringify({ texts }),
  });
const upload = (body: string | Buffer, headers: Record<string, string> = {}, by = key) =>
  request(`${url}/analyze_batch`, {
    method: 'POST',
    headers: { 'X-API-Key': by, 'Content-Type': 'application/x-ndjson', ...headers },
    body,
  });
const ndjson = (texts: readonly unknown[]) => texts.map((text) => `${JSON.stringify(text)}\n`).join('');
const cancel = (jobId: string, by = key) =>
  request(`${url}/jobs/${jobId}/cancel`, { method: 'POST', headers: { 'X-API-Key': by } });
const remove = (jobId: string, by = key) =>
  request(`${url}/jobs/${jobId}`, { method: 'DELETE', headers: { 'X-API-Key': by } });

async function finished(jobId: string, withinMs = 50_000): Promise<Answer['body']> {
  let job: Answer['body'];
  await until(
    `job ${jobId} has ended`,
    async () => {
      job = (await get(`/jobs/${jobId}`).catch(() => ({ body: {} }))).body;
      return ['completed', 'failed', 'canceled'].includes(job.status);
    },
    withinMs,
  );
  return job;
}

/** All results from the NDJSON stream. */
async function allResults(jobId: string): Promise<Answer['body'][]> {
  const { body } = await get(`/jobs/${jobId}/results`, { Accept: 'application/x-ndjson' });
  return body
    .trim()
    .split('\n')
    .map((line: string) => JSON.parse(line));
}

/**
 * All Redis keys except those of workers, gateways, API keys and limits, and those that BullMQ keeps for every queue; and the
 * counts of what is unfinished.
 */
async function jobKeys(): Promise<string[]> {
  const all = await rig.redis.keys('*');
  const counts = await rig.redis.hkeys('{sluice}:counts');
  return [...all, ...counts.filter((field) => !field.startsWith('ended ')).map((field) => `counts ${field}`)]
    .filter(
      (name) =>
        !/^\{sluice\}:(key:|keys$|usage(-report)?:|limit:|reads:|streams:|failed-auth:|replies:|worker:|workers$|tokenizer:|webhooks:(meta|stalled-check)|unanswered:|sweep$|probe$|counts$)/.test(
          name,
        ),
    )
    .filter((name) => !/-(bulk|interactive):(meta|events|marker|stalled-check|id|stalled)$/.test(name))
    .sort();
}

test('every text gets its answer in input order, identical to the answer it gets alone', async () => {
  await rig.worker();
  const texts = repeated(300);
  const accepted = await submit(texts);
  expect([accepted.status, accepted.headers.get('location')]).toEqual([202, `/jobs/${accepted.body.job_id}`]);
  expect(accepted.body).toEqual({
    message: 'Processing started',
    job_id: accepted.body.job_id,
    status: 'queued',
    total: 300,
    status_url: `/jobs/${accepted.body.job_id}`,
  });
  const job = await finished(accepted.body.job_id);
  expect(job).toMatchObject({
    status: 'completed',
    total: 300,
    completed: 300,
    failed: 0,
    progress: 1,
    error: null,
  });
  const direct = spawnSync(process.execPath, [join(root, 'tests/direct.mjs')], {
    input: JSON.stringify(sentences),
    encoding: 'utf8',
  });
  const expected: { label: string; score: number }[] = JSON.parse(direct.stdout);
  const results = await allResults(job.job_id);
  expect(results).toEqual(
    texts.map((text, index) => {
      const answer = expected[index % sentences.length];
      return {
        index,
        text,
        output: [answer],
        sentiment: answer?.label.toLowerCase(),
        confidence: answer?.score,
        tokens: expect.any(Number),
      };
    }),
  );
  // The pages contain the same results.
  const pages = [];
  for (let cursor = ''; cursor !== null; ) {
    const page = await get(`/jobs/${job.job_id}/results?limit=70${cursor && `&cursor=${cursor}`}`);
    pages.push(...page.body.results);
    cursor = page.body.next_cursor;
  }
  expect(pages).toEqual(results);
  expect((await get('/me')).body.bulk.queued).toBe(0);
});

test('an NDJSON upload with ids gives a job with these ids', async () => {
  await rig.worker();
  const accepted = await upload(
    `\uFEFF`.slice(1) + ndjson(['fine', { id: 'a', text: 'awful' }, { id: 7, text: 'so so' }]).trimEnd(),
  );
  expect([accepted.status, accepted.body.total]).toEqual([202, 3]);
  await finished(accepted.body.job_id);
  const results = await allResults(accepted.body.job_id);
  expect(results.map(({ index, id, text, sentiment }) => [index, id, text, sentiment])).toEqual([
    [0, undefined, 'fine', 'positive'],
    [1, 'a', 'awful', 'negative'],
    [2, 7, 'so so', expect.any(String)],
  ]);
});

test('a job is accepted without a worker and can be canceled; nothing of it remains after it is erased', async () => {
  const before = await jobKeys();
  const { body } = await submit(repeated(500), { 'Idempotency-Key': 'one' });
  expect((await get(`/jobs/${body.job_id}`)).body).toMatchObject({
    status: 'queued',
    progress: 0,
    started_at: null,
  });
  expect((await get('/me')).body.bulk.queued).toBe(500);
  const early = await get(`/jobs/${body.job_id}/results`);
  expect([early.status, early.body.code, early.headers.get('retry-after')]).toEqual([
    409,
    'results_not_ready',
    '1',
  ]);
  expect((await get(`/jobs/${body.job_id}/results?partial=true`)).body).toMatchObject({ results: [] });

  for (let i = 0; i < 2; i++) {
    const canceled = await cancel(body.job_id);
    expect([canceled.status, canceled.body.status]).toEqual([200, 'canceled']);
  }
  expect((await get('/me')).body.bulk.queued).toBe(0);
  const { results } = (await get(`/jobs/${body.job_id}/results?limit=1000`)).body;
  expect(results).toHaveLength(500);
  expect(results[499]).toMatchObject({ index: 499, error: { code: 'job_canceled' } });

  await rig.worker();
  expect((await remove(body.job_id)).status).toBe(204);
  expect((await get(`/jobs/${body.job_id}`)).status).toBe(404);
  await expectKeys(before);
});

test('canceling a completed job changes nothing, and other keys cannot cancel', async () => {
  await rig.worker();
  const { body } = await submit(['fine', 'awful']);
  expect((await cancel(body.job_id, await rig.key())).status).toBe(404);
  const job = await finished(body.job_id);
  const canceled = await cancel(body.job_id);
  expect([canceled.status, canceled.body]).toEqual([200, job]);
  expect((await get(`/jobs/${body.job_id}/results`)).body.results).toHaveLength(2);
});

test('a path whose id is not a job id is 404, and no command with it goes to Redis', async () => {
  const worker = await rig.worker();
  const { body } = await submit(['a text that stays private']);
  // The worker reads the record for this line.
  await until('the end of the job is logged', () => worker.output.includes('"status":"completed"'));
  const commands: string[] = [];
  const stop = await rig.monitor((words) => commands.push(words.join(' ')));
  const wrong = ['items', 'results']
    .map((name) => `${body.job_id}:${name}`)
    .concat('x', '*', '%00', '..%2Fkey');
  for (const id of wrong) {
    for (const rest of ['', '/results', '/events'])
      expect((await get(`/jobs/${id}${rest}`)).status).toBe(404);
    expect((await cancel(id)).status).toBe(404);
    expect((await remove(id)).status).toBe(404);
  }
  expect((await get(`/jobs/${body.job_id}`)).status).toBe(200);
  const ofJobs = () => commands.filter((command) => command.includes(':job:'));
  await until('the monitor has seen the last read', () => ofJobs().length > 0);
  stop();
  expect(ofJobs()).toEqual([`hgetall {sluice}:job:${body.job_id}`]);
});

test('a text that crashes or hangs the model gets an error; all others get their answers', async () => {
  await rig.worker({ MODEL_PROCESSES: '1', STALL_SECONDS: '0.6' }, faultyWorkerMain);
  const texts = repeated(60);
  texts[7] = '«crash»';
  texts[40] = '«hang»';
  const { body } = await submit(texts);
  const job = await finished(body.job_id);
  expect(job).toMatchObject({ status: 'completed', completed: 58, failed: 2, progress: 1 });
  const errors = (await allResults(body.job_id)).filter(({ error }) => error);
  expect(errors).toEqual([
    { index: 7, text: '«crash»', error: { code: 'analysis_failed', detail: 'Analysis failed' } },
    { index: 40, text: '«hang»', error: { code: 'analysis_timed_out', detail: 'Analysis timed out' } },
  ]);
});

test('a malformed item in a stored job fails alone', async () => {
  const { body } = await submit(['fine', 'broken', 'good']);
  const items = `{sluice}:job:${body.job_id}:items`;
  const [first, , last] = JSON.parse((await rig.redis.hget(items, '0')) ?? '[]');
  await rig.redis.hset(items, '0', JSON.stringify([first, { input: 7 }, last]));
  await rig.worker();
  expect(await finished(body.job_id)).toMatchObject({ status: 'completed', completed: 2, failed: 1 });
});

test('after workers, model processes, a gateway and Redis were killed, every text has exactly one answer', async () => {
  let worker = await rig.worker({ MODEL_PROCESSES: '2' }, faultyWorkerMain);
  const texts = repeated(1_200).map((text, i) => (i % 40 === 0 ? `«slow:60» ${text}` : text));
  const { body } = await upload(ndjson(texts));
  const progressed = (share: number) =>
    until(`${share} of the job is done`, async () => {
      const [stored, chunks] = await rig.redis.hmget(`{sluice}:job:${body.job_id}`, 'stored', 'chunks');
      return Number(stored) / Number(chunks) >= share;
    });
  await progressed(0.1);
  for (const pid of await modelProcesses(worker)) process.kill(pid, 'SIGKILL');
  await progressed(0.25);
  worker.child.kill('SIGKILL');
  worker = await rig.worker({ MODEL_PROCESSES: '2' }, faultyWorkerMain);
  await progressed(0.4);
  gateway.child.kill('SIGKILL');
  ({ url, app: gateway } = await rig.gateway());
  await progressed(0.6);
  process.kill(rig.redisPid, 'SIGKILL');
  await rig.restartRedis();
  const job = await finished(body.job_id, 60_000);
  expect(job).toMatchObject({ status: 'completed', total: 1_200, completed: 1_200, failed: 0 });
  const results = await allResults(body.job_id);
  expect(results.map(({ index }) => index)).toEqual(texts.map((_, i) => i));
  expect(results.map(({ text }) => text)).toEqual(texts);
  expect((await get('/me')).body.bulk.queued).toBe(0);
}, 90_000);

test('the chunks of a killed worker run again within 10 s', async () => {
  const killed = await rig.worker({ MODEL_PROCESSES: '1', MICRO_BATCH_TEXTS: '1' }, faultyWorkerMain);
  const { body } = await submit(Array.from({ length: 64 }, (_, i) => `«slow:1000» number ${i}`));
  const held = async () => (await rig.redis.keys('{sluice}:*-bulk:active')).length > 0;
  await until('the worker has the chunks', held);
  await rig.worker({ MODEL_PROCESSES: '1' }, faultyWorkerMain);
  // With its model process, which would also write the file.
  await killed.stop('SIGKILL');
  const runs = join(rig.folder, 'runs');
  writeFileSync(runs, '');
  await until('the other worker runs them', () => readFileSync(runs, 'utf8') !== '', 10_000);
  expect((await finished(body.job_id)).completed).toBe(64);
});

test('a chunk that is already stored does not run again', async () => {
  const runs = join(rig.folder, 'runs');
  writeFileSync(runs, '');
  await rig.worker({ MODEL_PROCESSES: '1', MICRO_BATCH_TEXTS: '8' }, faultyWorkerMain);
  const { body } = await submit(Array.from({ length: 96 }, (_, i) => `«slow:300» number ${i}`));
  const stored = () => rig.redis.hkeys(`{sluice}:job:${body.job_id}:results`);
  await until('a chunk is stored', async () => (await stored()).length > 0);
  const [chunk] = await stored();
  const ref = { jobId: body.job_id, chunk: Number(chunk) };
  const queue = new Queue(queueName(bundledSpec, 'bulk'), { connection: rig.redis, prefix: '{sluice}' });
  await until('its message is gone', async () => (await queue.getJobState(messageId(ref))) === 'unknown');
  // As a sweep does that looked at the chunk before it was stored.
  await enqueueChunks(queue, [ref]);
  await queue.close();
  expect((await finished(body.job_id)).completed).toBe(96);
  const rows = readFileSync(runs, 'utf8').trim().split('\n').map(Number);
  expect(rows.reduce((sum, count) => sum + count, 0)).toBe(96);
});

test("a large job does not delay another key's small one, and interactive requests go first", async () => {
  await rig.worker({ MODEL_PROCESSES: '1' });
  const other = await rig.key();
  const large = await submit(repeated(4_000));
  await until('it runs', async () => (await get(`/jobs/${large.body.job_id}`)).body.completed > 0);
  const small = await submit(repeated(50), {}, other);
  const interactive = await post(`${url}/predict`, key, { text: 'fine' });
  expect(interactive.status).toBe(200);
  await until(
    'the small one is done',
    async () => (await get(`/jobs/${small.body.job_id}`, {}, other)).body.status === 'completed',
  );
  const progress = (await get(`/jobs/${large.body.job_id}`)).body;
  expect(progress.status).toBe('running');
  expect((await remove(large.body.job_id)).body.status).toBe('canceled');
});

test('under full interactive load a job still progresses, and a request waits for at most two of its micro-batches', async () => {
  // Each micro-batch takes a little over 400 ms, whatever is in it.
  await rig.worker({ MODEL_PROCESSES: '1', MICRO_BATCH_TEXTS: '4' }, faultyWorkerMain);
  const { body } = await submit(Array.from({ length: 2_000 }, (_, i) => `«slow:400» ${i}`));
  const completed = async () => (await get(`/jobs/${body.job_id}`)).body.completed;
  await until('it runs', async () => (await completed()) > 0);
  // A running micro-batch, a reserved one and its own take 1,200 ms, one more 1,600 ms; the rest is for the way to the worker.
  const alone = [];
  for (let i = 0; i < 5; i++)
    alone.push((await post(`${url}/predict`, key, { text: '«slow:400» alone' })).ms);
  expect(Math.min(...alone)).toBeLessThan(1_550);
  const before = await completed();
  let loaded = true;
  let sent = 0;
  const clients = Array.from({ length: 24 }, async () => {
    const statuses = [];
    // Equal texts would run once.
    while (loaded)
      statuses.push((await post(`${url}/predict`, key, { text: `«slow:400» ${++sent}` })).status);
    return statuses;
  });
  await until('the job has progressed', async () => (await completed()) >= before + 32, 40_000);
  loaded = false;
  expect(new Set((await Promise.all(clients)).flat())).toEqual(new Set([200]));
}, 90_000);

test('a client that disconnects while it reads results does not affect others', async () => {
  await rig.worker();
  const { body } = await submit(repeated(600));
  await finished(body.job_id);
  for (let i = 0; i < 5; i++) {
    const disconnect = new AbortController();
    const answer = await fetch(`${url}/jobs/${body.job_id}/results`, {
      headers: { 'X-API-Key': key, Accept: 'application/x-ndjson' },
      signal: disconnect.signal,
    });
    await answer.body?.getReader().read();
    disconnect.abort();
  }
  expect(await allResults(body.job_id)).toHaveLength(600);
  expect(gateway.output).not.toContain('MaxListeners');
});

test('an idempotency key names one job: the same body gives the same job, a different one is refused', async () => {
  await rig.worker();
  const once = { 'Idempotency-Key': 'order-66' };
  const [first, twin] = await Promise.all([submit(['a', 'b'], once), submit(['a', 'b'], once)]);
  const statuses = [first.status, twin.status].sort();
  expect([
    [202, 202],
    [202, 409],
  ]).toContainEqual(statuses);
  const jobId = (first.status === 202 ? first : twin).body.job_id;
  if (twin.status === 202 && first.status === 202) expect(twin.body.job_id).toBe(first.body.job_id);
  await finished(jobId);
  const replay = await submit(['a', 'b'], once);
  expect([replay.status, replay.body.job_id, replay.body.status]).toEqual([202, jobId, 'completed']);
  const different = await submit(['a', 'c'], once);
  expect([different.status, different.body.code]).toEqual([422, 'idempotency_mismatch']);
  expect((await upload(ndjson(['a', 'b']), once)).status).toBe(422);
  // The same idempotency key of another API key is independent.
  const other = await rig.key();
  const theirs = await submit(['a', 'c'], once, other);
  expect([theirs.status, theirs.body.job_id === jobId]).toEqual([202, false]);
  expect((await get(`/jobs/${jobId}`, {}, other)).status).toBe(404);
  expect((await remove(jobId, other)).status).toBe(404);
  // An erased job frees its idempotency key.
  await remove(jobId);
  const again = await submit(['a', 'c'], once);
  expect([again.status, again.body.job_id === jobId]).toEqual([202, false]);
});

test('an upload that broke off, or whose gateway died, blocks no other with its idempotency key', async () => {
  const other = await rig.gateway();
  // Enough that it is sent to Redis.
  const piece = `"${'fine '.repeat(1_500)}"\n`.repeat(32);
  const broken = (at: string) => {
    const socket = createConnection(Number(new URL(at).port), '127.0.0.1');
    socket.on('error', () => {});
    socket.write(
      `POST /analyze_batch HTTP/1.1\r\nHost: x\r\nX-API-Key: ${key}\r\nIdempotency-Key: once\r\n` +
        `Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n${piece.length.toString(16)}\r\n${piece}\r\n`,
    );
    return socket;
  };
  const [first, second, third] = [broken(url), broken(other.url), broken(url)];
  await until(
    'a piece of each is staged',
    async () => (await rig.redis.keys('{sluice}:stage:*:starts')).length === 3,
  );
  first.destroy();
  await other.app.stop('SIGKILL');
  const accepted = await submit(['fine'], { 'Idempotency-Key': 'once' });
  expect(accepted.status).toBe(202);
  // The third upload continues, with another body: the job that was accepted first counts.
  third.write('8\r\n"awful"\n\r\n0\r\n\r\n');
  let answer = '';
  for await (const part of third) {
    answer += part;
    if (answer.includes('idempotency_mismatch')) break;
  }
  expect(answer).toMatch(/^HTTP\/1.1 422/);
  second.destroy();
  expect((await get('/jobs')).body.jobs).toHaveLength(1);
});

test('of many uploads at once with the same idempotency key one creates the job, and all are answered with it', async () => {
  const texts = repeated(100);
  const answers = await Promise.all(
    Array.from({ length: 10 }, () => upload(ndjson(texts), { 'Idempotency-Key': 'same' })),
  );
  expect(answers.map(({ status }) => status)).toEqual(Array(10).fill(202));
  expect(new Set(answers.map(({ body }) => body.job_id)).size).toBe(1);
  expect((await get('/jobs')).body.jobs).toHaveLength(1);
  expect((await get('/me')).body.bulk.queued).toBe(100);
  await until('no upload is left', async () => (await rig.redis.keys('{sluice}:stage:*')).length === 0);
});

test("a caller's jobs take turns four at a time, the oldest first", async () => {
  const ids: string[] = [];
  // The first job fills the queue with its first chunks, and then waits for its turns.
  for (let i = 0; i < 100; i++) ids.push((await submit(repeated(320))).body.job_id);
  await rig.worker({ MODEL_PROCESSES: '1' });
  type Job = { job_id: string; status: string; completed: number };
  let jobs: Job[] = [];
  await until('the first job is done', async () => {
    jobs = (await get('/jobs?limit=100')).body.jobs;
    return jobs.some(({ status }) => status === 'completed');
  });
  const done = jobs.reduce((sum, { completed }) => sum + completed, 0);
  expect(done / (100 * 320)).toBeLessThan(0.1);
  const begun = jobs.filter(({ completed }) => completed > 0).map(({ job_id }) => ids.indexOf(job_id));
  expect(Math.max(...begun)).toBeLessThan(8);
  expect(
    jobs.filter(({ status }) => status === 'completed').every(({ job_id }) => ids.indexOf(job_id) < 8),
  ).toBe(true);
}, 120_000);

test('a stream of events shows the progress and ends with the job', async () => {
  await rig.worker({ MODEL_PROCESSES: '1' });
  const { body } = await submit(repeated(500));
  const events = await get(`/jobs/${body.job_id}/events`);
  expect([events.status, events.headers.get('content-type')]).toEqual([
    200,
    'text/event-stream; charset=utf-8',
  ]);
  const sent = [...events.body.matchAll(/event: (\w+)\ndata: (.*)\n\n/g)].map(([, event, data]) => [
    event,
    JSON.parse(data ?? ''),
  ]);
  expect(sent.length).toBeGreaterThanOrEqual(2);
  expect(sent.at(0)?.[0]).toBe('progress');
  expect(sent.at(-1)).toEqual(['completed', (await get(`/jobs/${body.job_id}`)).body]);
  const done = sent.map(([, job]) => job.completed);
  expect(done).toEqual([...done].sort((a, b) => a - b));
});

test('many clients can follow a job, disconnect or connect late', async () => {
  await rig.worker({ MODEL_PROCESSES: '1' });
  for (let round = 0; round < 3; round++) {
    const { body } = await submit(repeated(100));
    const path = `/jobs/${body.job_id}/events`;
    const followers = [get(path), get(path)];
    const disconnected = Array.from({ length: 20 }, (_, i) =>
      fetch(`${url}${path}`, { headers: { 'X-API-Key': key }, signal: AbortSignal.timeout(1 + i * 3) }).catch(
        () => 'gone',
      ),
    );
    let status = '';
    while (status !== 'completed') {
      // One more follower after each look, some of them while the job ends.
      followers.push(get(path));
      ({ status } = (await get(`/jobs/${body.job_id}`)).body);
    }
    for (const { body: events } of await Promise.all(followers)) {
      expect(events.match(/event: completed/g)).toHaveLength(1);
    }
    await Promise.all(disconnected);
  }
  // Two streams on one connection: the second ends before its response can be sent.
  const slow = await submit(repeated(300));
  const done = (await get('/jobs')).body.jobs.find(
    ({ status }: { status: string }) => status === 'completed',
  );
  const socket = createConnection({ port: Number(new URL(url).port), host: '127.0.0.1' });
  for (const id of [slow.body.job_id, done.job_id]) {
    socket.write(`GET /jobs/${id}/events HTTP/1.1\r\nHost: x\r\nX-API-Key: ${key}\r\n\r\n`);
  }
  let text = '';
  socket.on('data', (data) => {
    text += data;
  });
  await until('both streams have ended', () => text.match(/event: completed/g)?.length === 2);
  socket.destroy();
  expect(gateway.child.exitCode).toBeNull();
});

test('a stream of events also ends when Redis was away at the end of the job', async () => {
  await rig.worker({ MODEL_PROCESSES: '1' }, faultyWorkerMain);
  const { body } = await submit(['«slow:500» last']);
  const events = await fetch(`${url}/jobs/${body.job_id}/events`, { headers: { 'X-API-Key': key } });
  process.kill(rig.redisPid, 'SIGSTOP');
  await delay(1_500);
  process.kill(rig.redisPid, 'SIGCONT');
  expect(await events.text()).toMatch(/event: completed/);
});

test('a client that is refused during a long upload reads the response, even if it sends everything first', async () => {
  const poor = await rig.key({ bulkLimit: 10 });
  const body = Array.from({ length: 200_000 }, (_, i) => JSON.stringify(`${i} ${'x'.repeat(200)}`)).join(
    '\n',
  );
  const socket = createConnection({ port: Number(new URL(url).port), host: '127.0.0.1' });
  let answer = '';
  socket.on('error', (error) => {
    answer += error.message;
  });
  const head = `POST /analyze_batch HTTP/1.1\r\nHost: x\r\nX-API-Key: ${poor}\r\nContent-Type: application/x-ndjson\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n`;
  await new Promise((resolve) => socket.write(head + body, resolve));
  socket.on('data', (data) => {
    answer += data;
  });
  await until('it is answered', () => answer !== '');
  socket.destroy();
  expect(answer).toMatch(/^HTTP\/1\.1 413 /);
});

test('a job does not exist for another key', async () => {
  const other = await rig.key();
  const { body } = await submit(['fine']);
  for (const path of ['', '/results', '/events']) {
    expect((await get(`/jobs/${body.job_id}${path}`, {}, other)).status).toBe(404);
  }
  expect((await remove(body.job_id, other)).status).toBe(404);
  expect((await get('/jobs', {}, other)).body.jobs).toEqual([]);
  expect((await get(`/jobs/${body.job_id}`)).status).toBe(200);
});

test('revoking a key cancels its unfinished jobs', async () => {
  const other = await rig.key();
  const { body } = await submit(repeated(100), {}, other);
  await new Keyring(rig.redis).revoke(other.split('_')[1] ?? '', Date.now());
  await until(
    'the job is canceled',
    async () => (await rig.redis.hget(`{sluice}:job:${body.job_id}`, 'status')) === 'canceled',
  );
  expect(await rig.redis.hget(`{sluice}:job:${body.job_id}`, 'error')).toBe('The API key was revoked');
});

test('chunks in flight of a job whose record is gone do not block its caller', async () => {
  await rig.worker();
  const lost = await submit(repeated(500));
  await rig.redis.del(`{sluice}:job:${lost.body.job_id}`);
  const { body } = await submit(['fine']);
  expect((await finished(body.job_id, 15_000)).status).toBe('completed');
});

test('a slow but steady upload is accepted; one that is refused during its upload gets the response', async () => {
  async function* slowly() {
    yield Buffer.from('"one"\n');
    await delay(11_000);
    yield Buffer.from('"two"\n');
  }
  const init = (body: AsyncIterable<Uint8Array>) =>
    ({
      method: 'POST',
      headers: { 'X-API-Key': key, 'Content-Type': 'application/x-ndjson', 'Idempotency-Key': 'slow' },
      body: ReadableStream.from(body),
      duplex: 'half',
    }) as RequestInit;
  const slow = request(`${url}/analyze_batch`, init(slowly()));
  async function* endless() {
    yield Buffer.from('7\n');
    for (let i = 0; i < 200; i++) yield Buffer.alloc(100_000, 0x20);
  }
  const refused = await request(`${url}/analyze_batch`, {
    ...init(endless()),
    headers: { 'X-API-Key': key, 'Content-Type': 'application/x-ndjson' },
  });
  expect([refused.status, refused.body.detail]).toEqual([
    422,
    'Line 1: neither a JSON string nor an object with "text"',
  ]);
  expect((await slow).status).toBe(202);
});

test('above 80 % of maxmemory jobs get 503, and interactive requests are served', async () => {
  await rig.worker();
  // Large, so that other changes of memory do not matter.
  await rig.redis.set('ballast', 'x'.repeat(50_000_000));
  const used = Number(/used_memory:(\d+)/.exec(await rig.redis.info('memory'))?.[1]);
  await rig.redis.config('SET', 'maxmemory', String(Math.round(used * 1.2)));
  const refused = await submit(['fine']);
  expect([refused.status, refused.body.code, refused.headers.get('retry-after')]).toEqual([
    503,
    'nearly_full',
    '30',
  ]);
  expect((await post(`${url}/predict`, key, { text: 'fine' })).status).toBe(200);
  await rig.redis.config('SET', 'maxmemory', '0');
  expect((await submit(['fine'])).status).toBe(202);
});

test('the jobs of a key are listed newest first, in pages', async () => {
  const ids = [];
  for (let i = 0; i < 5; i++) ids.push((await submit([`number ${i}`])).body.job_id);
  const first = (await get('/jobs?limit=3')).body;
  const second = (await get(`/jobs?limit=3&cursor=${first.next_cursor}`)).body;
  const listed = [...first.jobs, ...second.jobs].map(({ job_id }) => job_id);
  expect(listed).toEqual(ids.reverse());
  expect([first.next_cursor === null, second.next_cursor]).toEqual([false, null]);
});

test('a job that is not finished in time fails, and an expired job is erased with its results', async () => {
  const env = { RESULT_TTL_SECONDS: '3', BATCH_TIMEOUT_SECONDS: '1' };
  const before = await jobKeys();
  await gateway.stop();
  ({ url } = await rig.gateway(env));
  const { body } = await submit(repeated(100), { 'Idempotency-Key': 'brief' });
  const job = await finished(body.job_id);
  expect(job).toMatchObject({ status: 'failed', error: 'Not finished in time', completed: 0 });
  expect((await get('/me')).body.bulk.queued).toBe(0);
  await until('the job is gone', async () => (await get(`/jobs/${body.job_id}`)).status === 404);
  await rig.worker(env);
  await expectKeys(before);
});

test('an unfinished job with a record of another version fails in time and frees the allowance', async () => {
  await gateway.stop();
  ({ url } = await rig.gateway({ BATCH_TIMEOUT_SECONDS: '1' }));
  const { body } = await submit(repeated(100));
  await rig.redis.hset(`{sluice}:job:${body.job_id}`, 'v', 'another');
  expect((await get(`/jobs/${body.job_id}`)).status).toBe(404);
  await until('the allowance is free', async () => (await get('/me')).body.bulk.queued === 0);
  expect(await rig.redis.hget(`{sluice}:job:${body.job_id}`, 'status')).toBe('failed');
  expect(await rig.redis.pttl(`{sluice}:job:${body.job_id}:items`)).toBeGreaterThan(0);
});

test('an invalid upload is refused with the reason, and nothing of it remains', async () => {
  const poor = await rig.key({ bulkLimit: 10 });
  const refused = async (answer: Promise<Answer>, status: number, code: string, detail?: RegExp) => {
    const { status: got, body } = await answer;
    expect([got, body.code]).toEqual([status, code]);
    if (detail) expect(`${body.detail} ${JSON.stringify(body.errors ?? [])}`).toMatch(detail);
  };
  const { gzipSync } = await import('node:zlib');
  const before = await jobKeys();
  await refused(submit([]), 422, 'validation_failed', /texts/);
  await refused(submit('no list'), 422, 'validation_failed', /texts/);
  await refused(submit(['fine', '']), 422, 'validation_failed', /\/texts\/1/);
  await refused(submit(repeated(5_001)), 413, 'batch_too_large', /5000/);
  await refused(upload(''), 422, 'validation_failed', /is empty/);
  await refused(upload('\n\n'), 422, 'validation_failed', /is empty/);
  await refused(upload(`${ndjson(repeated(700))}{"text": "fine"\n`), 400, 'invalid_json', /Line 701/);
  await refused(upload('"fine"\n"fine"\n7\n'), 422, 'validation_failed', /Line 3: neither/);
  await refused(
    upload(`"fine"\n"${'x'.repeat(10_001)}"\n`),
    422,
    'validation_failed',
    /Line 2: .*10000 characters/,
  );
  await refused(
    upload(`"fine"\n{"text": " "}\n`),
    422,
    'validation_failed',
    /Line 2: .*white space.*"\/1\/text"/,
  );
  for (const id of ['true', '1.5', '12345678901234567890', '{}', `"${'x'.repeat(257)}"`])
    await refused(
      upload(`\n{"text": "x", "id": ${id}}\n`),
      422,
      'validation_failed',
      /Line 2: An id.*"\/1\/id"/,
    );
  await refused(upload(Buffer.from([0x22, 0xff, 0x22, 0x0a])), 400, 'invalid_encoding', /Line 1/);
  await refused(upload(ndjson(repeated(5_001))), 413, 'batch_too_large', /5000/);
  await refused(
    upload(gzipSync(Buffer.alloc(100_000_000, 0x20)), { 'Content-Encoding': 'gzip' }),
    422,
    'validation_failed',
    /Line 1: longer than \d+ bytes/,
  );
  await refused(upload('not gzip', { 'Content-Encoding': 'gzip' }), 400, 'invalid_encoding');
  await refused(upload('"fine"\n', { 'Content-Encoding': 'br' }), 415, 'unsupported_media_type');
  await refused(
    request(`${url}/analyze_batch?model=gpt`, {
      method: 'POST',
      headers: { 'X-API-Key': key, 'Content-Type': 'application/x-ndjson' },
      body: '"fine"\n',
    }),
    422,
    'validation_failed',
    /\/model/,
  );
  await refused(submit(repeated(11), {}, poor), 413, 'batch_too_large', /10/);
  expect((await submit(repeated(8), {}, poor)).status).toBe(202);
  const used = await submit(repeated(3), {}, poor);
  expect([used.status, used.body.code, used.headers.get('retry-after')]).toEqual([
    429,
    'bulk_allowance_used',
    '10',
  ]);
  const { jobs } = (await get('/jobs', {}, poor)).body;
  await remove(jobs[0].job_id, poor);
  await remove(jobs[0].job_id, poor);
  await refused(get('/jobs?limit=0'), 422, 'validation_failed', /\/limit/);
  await refused(get('/jobs?cursor=invalid'), 422, 'validation_failed', /\/cursor/);
  await refused(get('/jobs/nobody'), 404, 'not_found');
  await refused(get('/jobs/nobody/results'), 404, 'not_found');
  await refused(get('/jobs/nobody/events'), 404, 'not_found');
  await expectKeys(before);
});

test('an upload that is refused before it is read does not affect the gateway, whatever it contains', async () => {
  const refusedUnread = (headers: Record<string, string>, body: RequestInit['body'], signal?: AbortSignal) =>
    fetch(`${url}/analyze_batch?model=gpt`, {
      method: 'POST',
      headers: { 'X-API-Key': key, 'Content-Type': 'application/x-ndjson', ...headers },
      body,
      duplex: 'half',
      ...(signal ? { signal } : {}),
    } as RequestInit);
  const notGzip = await refusedUnread({ 'Content-Encoding': 'gzip' }, 'not gzip');
  expect(notGzip.status).toBe(422);
  async function* unfinished() {
    yield Buffer.from('"fine"\n');
    await delay(200);
    throw new Error('interrupted');
  }
  await refusedUnread({}, ReadableStream.from(unfinished())).catch(() => 'interrupted');
  expect((await submit(['fine'])).status).toBe(202);
  expect(gateway.child.exitCode).toBeNull();
});

test('nothing remains of an interrupted upload', async () => {
  const before = await jobKeys();
  const interrupt = new AbortController();
  async function* body() {
    yield Buffer.from(ndjson(repeated(2_000)));
    await until(
      'a piece is staged',
      async () => (await rig.redis.keys('{sluice}:stage:*:starts')).length === 1,
    );
    interrupt.abort();
    yield Buffer.from('"never"\n');
  }
  await expect(
    fetch(`${url}/analyze_batch`, {
      method: 'POST',
      headers: { 'X-API-Key': key, 'Content-Type': 'application/x-ndjson', 'Idempotency-Key': 'cut' },
      body: ReadableStream.from(body()),
      signal: interrupt.signal,
      duplex: 'half',
    } as RequestInit),
  ).rejects.toThrow();
  await expectKeys(before);
  expect((await submit(['fine'], { 'Idempotency-Key': 'cut' })).status).toBe(202);
});
