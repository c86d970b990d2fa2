import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Keyring } from '@sluice/shared';
import {
  type Answer,
  type App,
  faultyWorkerMain,
  modelProcesses,
  post,
  Rig,
  request,
  root,
  until,
} from './harness.js';

/** Waits until nothing but these keys is left. */
async function leaves(before: string[]) {
  await until('nothing is left', async () => (await batchKeys()).length === before.length, 5_000).catch(
    () => {},
  );
  expect(await batchKeys()).toEqual(before);
}

let rig: Rig;
let url: string;
let gateway: App;
let key: string;

beforeEach(async () => {
  rig = await Rig.start();
  [{ url, app: gateway }, key] = await Promise.all([rig.gateway({ MAX_BATCH_TEXTS: '5000' }), rig.key()]);
});
afterEach(() => rig.close());

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
const remove = (jobId: string, by = key) =>
  request(`${url}/jobs/${jobId}`, { method: 'DELETE', headers: { 'X-API-Key': by } });

async function finished(jobId: string, withinMs = 30_000): Promise<Answer['body']> {
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

/** All results, as the stream gives them. */
async function allResults(jobId: string): Promise<Answer['body'][]> {
  const { body } = await get(`/jobs/${jobId}/results`, { Accept: 'application/x-ndjson' });
  return body
    .trim()
    .split('\n')
    .map((line: string) => JSON.parse(line));
}

/** Every key but those of workers, gateways, keys and limits, and what BullMQ keeps of a queue as such. */
async function batchKeys(): Promise<string[]> {
  const all = await rig.redis.keys('*');
  return all
    .filter(
      (name) =>
        !/^\{sluice\}:(key:|keys$|usage(-mark)?:|limit:|guesses:|replies:|worker:|workers$|waiting:|sweeper$)/.test(
          name,
        ),
    )
    .filter((name) => !/-(bulk|interactive):(meta|events|marker|stalled-check|id|stalled)$/.test(name))
    .sort();
}

test('every text gets its answer, in order, the same that it gets alone', async () => {
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
      };
    }),
  );
  // In pages the same.
  const pages = [];
  for (let cursor = ''; cursor !== null; ) {
    const page = await get(`/jobs/${job.job_id}/results?limit=70${cursor && `&cursor=${cursor}`}`);
    pages.push(...page.body.results);
    cursor = page.body.next_cursor;
  }
  expect(pages).toEqual(results);
  expect((await get('/me')).body.bulk.queued).toBe(0);
});

test('NDJSON comes as a stream, with ids of its own, and is the same batch', async () => {
  await rig.worker();
  const accepted = await upload(
    `\uFEFF`.slice(1) + ndjson(['fine', { id: 'a', text: 'awful' }, { text: 'so so' }]).trimEnd(),
  );
  expect([accepted.status, accepted.body.total]).toEqual([202, 3]);
  await finished(accepted.body.job_id);
  const results = await allResults(accepted.body.job_id);
  expect(results.map(({ index, id, text, sentiment }) => [index, id, text, sentiment])).toEqual([
    [0, undefined, 'fine', 'positive'],
    [1, 'a', 'awful', 'negative'],
    [2, undefined, 'so so', expect.any(String)],
  ]);
});

test('a batch is accepted without a worker, waits, and can be canceled; nothing of it stays once it is erased', async () => {
  const before = await batchKeys();
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

  const canceled = await remove(body.job_id);
  expect([canceled.status, canceled.body.status]).toEqual([200, 'canceled']);
  expect((await get('/me')).body.bulk.queued).toBe(0);
  const { results } = (await get(`/jobs/${body.job_id}/results?limit=1000`)).body;
  expect(results).toHaveLength(500);
  expect(results[499]).toMatchObject({ index: 499, error: { code: 'job_canceled' } });

  await rig.worker();
  expect((await remove(body.job_id)).status).toBe(204);
  expect((await get(`/jobs/${body.job_id}`)).status).toBe(404);
  await leaves(before);
});

test('a poisonous text stands alone with its error; the others have their answers', async () => {
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

test('killed workers, model processes, a gateway and Redis cost nothing: complete, none twice, none lost', async () => {
  let worker = await rig.worker({ MODEL_PROCESSES: '2' }, faultyWorkerMain);
  const texts = repeated(1_200).map((text, i) => (i % 40 === 0 ? `«slow:60» ${text}` : text));
  const { body } = await upload(ndjson(texts));
  const progressed = (share: number) =>
    until(`${share} of it is done`, async () => {
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

test("one key's large batch does not hold up another's small one, and someone who waits goes first", async () => {
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

test('under interactive load at capacity a batch still moves, and who waits waits for two micro-batches of it at most', async () => {
  // Each micro-batch takes 100 ms or a little more, whatever is in it.
  await rig.worker({ MODEL_PROCESSES: '1', MICRO_BATCH_TEXTS: '4' }, faultyWorkerMain);
  const { body } = await submit(Array.from({ length: 2_000 }, (_, i) => `«slow:100» ${i}`));
  const completed = async () => (await get(`/jobs/${body.job_id}`)).body.completed;
  await until('it runs', async () => (await completed()) > 0);
  // One running, one reserved, its own: 300 ms, and what it takes to get there.
  const alone = [];
  for (let i = 0; i < 5; i++)
    alone.push((await post(`${url}/predict`, key, { text: '«slow:100» alone' })).ms);
  expect(Math.min(...alone)).toBeLessThan(450);
  const before = await completed();
  let loaded = true;
  const clients = Array.from({ length: 24 }, async () => {
    const statuses = [];
    while (loaded) statuses.push((await post(`${url}/predict`, key, { text: '«slow:100» load' })).status);
    return statuses;
  });
  await until('the batch has moved', async () => (await completed()) >= before + 32, 20_000);
  loaded = false;
  expect(new Set((await Promise.all(clients)).flat())).toEqual(new Set([200]));
}, 60_000);

test('a client that hangs up in the middle of its results harms nobody', async () => {
  await rig.worker();
  const { body } = await submit(repeated(4_000));
  await finished(body.job_id);
  for (let i = 0; i < 5; i++) {
    const hangUp = new AbortController();
    const answer = await fetch(`${url}/jobs/${body.job_id}/results`, {
      headers: { 'X-API-Key': key, Accept: 'application/x-ndjson' },
      signal: hangUp.signal,
    });
    await answer.body?.getReader().read();
    hangUp.abort();
  }
  expect(await allResults(body.job_id)).toHaveLength(4_000);
  expect(gateway.output).not.toContain('MaxListeners');
});

test('an idempotency key stands for one batch: the same body is the same job, another is refused', async () => {
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
  // Another caller's key is another key.
  const other = await rig.key();
  const theirs = await submit(['a', 'c'], once, other);
  expect([theirs.status, theirs.body.job_id === jobId]).toEqual([202, false]);
  expect((await get(`/jobs/${jobId}`, {}, other)).status).toBe(404);
  expect((await remove(jobId, other)).status).toBe(404);
  // Erased, it frees its key.
  await remove(jobId);
  const again = await submit(['a', 'c'], once);
  expect([again.status, again.body.job_id === jobId]).toEqual([202, false]);
});

test('progress comes as events, and ends with the job', async () => {
  await rig.worker({ MODEL_PROCESSES: '1' });
  const { body } = await submit(repeated(1_500));
  const events = await get(`/jobs/${body.job_id}/events`);
  expect([events.status, events.headers.get('content-type')]).toEqual([
    200,
    'text/event-stream; charset=utf-8',
  ]);
  const told = [...events.body.matchAll(/event: (\w+)\ndata: (.*)\n\n/g)].map(([, event, data]) => [
    event,
    JSON.parse(data ?? ''),
  ]);
  expect(told.length).toBeGreaterThanOrEqual(2);
  expect(told.at(0)?.[0]).toBe('progress');
  expect(told.at(-1)).toEqual(['completed', (await get(`/jobs/${body.job_id}`)).body]);
  const done = told.map(([, job]) => job.completed);
  expect(done).toEqual([...done].sort((a, b) => a - b));
});

test('many may follow a job to its end, hang up or come late, and the gateway lives on', async () => {
  await rig.worker({ MODEL_PROCESSES: '1' });
  for (let round = 0; round < 4; round++) {
    const { body } = await submit(repeated(200));
    const path = `/jobs/${body.job_id}/events`;
    const followers = [get(path), get(path)];
    const hangUps = Array.from({ length: 20 }, (_, i) =>
      fetch(`${url}${path}`, { headers: { 'X-API-Key': key }, signal: AbortSignal.timeout(1 + i * 3) }).catch(
        () => 'gone',
      ),
    );
    let status = '';
    while (status !== 'completed') {
      // One more whenever it looks: some while it ends.
      followers.push(get(path));
      ({ status } = (await get(`/jobs/${body.job_id}`)).body);
    }
    for (const { body: told } of await Promise.all(followers)) {
      expect(told.match(/event: completed/g)).toHaveLength(1);
    }
    await Promise.all(hangUps);
  }
  // Two on one connection: the second is over before its turn to be sent.
  const slow = await submit(repeated(1_000));
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
  await until('both are told to the end', () => text.match(/event: completed/g)?.length === 2);
  socket.destroy();
  expect(gateway.child.exitCode).toBeNull();
});

test('a stream of events ends also when Redis was away at the end', async () => {
  await rig.worker({ MODEL_PROCESSES: '1' }, faultyWorkerMain);
  const { body } = await submit(['«slow:500» last']);
  const events = get(`/jobs/${body.job_id}/events`);
  await until(
    'it is followed',
    async () => Number((await rig.redis.pubsub('NUMSUB', '{sluice}:changes'))[1]) > 0,
  );
  process.kill(rig.redisPid, 'SIGSTOP');
  await delay(1_500);
  process.kill(rig.redisPid, 'SIGCONT');
  expect((await events).body).toMatch(/event: completed/);
});

test('whoever is refused in the middle of a long upload reads why, though it sends all of it first', async () => {
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

test('to another key a job is not there', async () => {
  const other = await rig.key();
  const { body } = await submit(['fine']);
  for (const path of ['', '/results', '/events']) {
    expect((await get(`/jobs/${body.job_id}${path}`, {}, other)).status).toBe(404);
  }
  expect((await remove(body.job_id, other)).status).toBe(404);
  expect((await get('/jobs', {}, other)).body.jobs).toEqual([]);
  expect((await get(`/jobs/${body.job_id}`)).status).toBe(200);
});

test('revoking a key cancels its unfinished jobs, and a record made anew starts from nothing', async () => {
  const other = await rig.key();
  const { body } = await submit(repeated(100), {}, other);
  await new Keyring(rig.redis).revoke(other.split('_')[1] ?? '', Date.now());
  await until(
    'the job is canceled',
    async () => (await rig.redis.hget(`{sluice}:job:${body.job_id}`, 'status')) === 'canceled',
  );
  expect(await rig.redis.hget(`{sluice}:job:${body.job_id}`, 'error')).toBe('The API key was revoked');
});

test('marks of a job whose record is gone do not block its caller', async () => {
  await rig.worker();
  const lost = await submit(repeated(500));
  await rig.redis.del(`{sluice}:job:${lost.body.job_id}`);
  const { body } = await submit(['fine']);
  expect((await finished(body.job_id, 15_000)).status).toBe('completed');
});

test('an upload that is slow but steady arrives; one that is refused in the middle reads why', async () => {
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

test('above 80 % of maxmemory batches get 503 and interactive work goes on', async () => {
  await rig.worker();
  // Enough that what comes and goes beside it does not matter.
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

test('own jobs are listed newest first, in pages', async () => {
  const ids = [];
  for (let i = 0; i < 5; i++) ids.push((await submit([`number ${i}`])).body.job_id);
  const first = (await get('/jobs?limit=3')).body;
  const second = (await get(`/jobs?limit=3&cursor=${first.next_cursor}`)).body;
  const listed = [...first.jobs, ...second.jobs].map(({ job_id }) => job_id);
  expect(listed).toEqual(ids.reverse());
  expect([first.next_cursor === null, second.next_cursor]).toEqual([false, null]);
});

test('a batch goes with its results once its time is over, and one that is not finished in time fails', async () => {
  const env = { RESULT_TTL_SECONDS: '1', BATCH_TIMEOUT_SECONDS: '1' };
  const before = await batchKeys();
  await gateway.stop();
  ({ url } = await rig.gateway(env));
  const { body } = await submit(repeated(100), { 'Idempotency-Key': 'brief' });
  const job = await finished(body.job_id);
  expect(job).toMatchObject({ status: 'failed', error: 'Not finished in time', completed: 0 });
  expect((await get('/me')).body.bulk.queued).toBe(0);
  await until('it is gone', async () => (await get(`/jobs/${body.job_id}`)).status === 404);
  await rig.worker(env);
  await leaves(before);
});

test('what is wrong with a batch is said, and leaves nothing', async () => {
  const poor = await rig.key({ bulkLimit: 10 });
  const refused = async (answer: Promise<Answer>, status: number, code: string, detail?: RegExp) => {
    const { status: got, body } = await answer;
    expect([got, body.code]).toEqual([status, code]);
    if (detail) expect(`${body.detail} ${JSON.stringify(body.errors ?? [])}`).toMatch(detail);
  };
  const { gzipSync } = await import('node:zlib');
  const before = await batchKeys();
  await refused(submit([]), 422, 'validation_failed', /texts/);
  await refused(submit('no list'), 422, 'validation_failed', /texts/);
  await refused(submit(['fine', '']), 422, 'validation_failed', /\/texts\/1/);
  await refused(submit(repeated(5_001)), 413, 'batch_too_large', /5000/);
  await refused(upload(''), 422, 'validation_failed', /no texts/);
  await refused(upload('\n\n'), 422, 'validation_failed', /no texts/);
  await refused(upload(`${ndjson(repeated(700))}{"text": "fine"\n`), 400, 'invalid_json', /Line 701/);
  await refused(upload('"fine"\n"fine"\n7\n'), 422, 'validation_failed', /Line 3: neither/);
  await refused(
    upload(`"fine"\n"${'x'.repeat(10_001)}"\n`),
    422,
    'validation_failed',
    /Line 2: .*10000 characters/,
  );
  await refused(upload(`"fine"\n{"text": " "}\n`), 422, 'validation_failed', /Line 2: .*white space/);
  await refused(upload(Buffer.from([0x22, 0xff, 0x22, 0x0a])), 400, 'invalid_encoding', /Line 1/);
  await refused(upload(ndjson(repeated(5_001))), 413, 'batch_too_large', /5000/);
  await refused(
    upload(gzipSync(Buffer.alloc(100_000_000, 0x20)), { 'Content-Encoding': 'gzip' }),
    422,
    'validation_failed',
    /Line 1: too long/,
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
  await refused(get('/jobs?cursor=rubbish'), 422, 'validation_failed', /\/cursor/);
  await refused(get('/jobs/nobody'), 404, 'not_found');
  await refused(get('/jobs/nobody/results'), 404, 'not_found');
  await refused(get('/jobs/nobody/events'), 404, 'not_found');
  await leaves(before);
});

test('an upload that is refused before it is read harms nobody, whatever comes of it', async () => {
  const refusedUnread = (headers: Record<string, string>, body: RequestInit['body'], signal?: AbortSignal) =>
    fetch(`${url}/analyze_batch?model=gpt`, {
      method: 'POST',
      headers: { 'X-API-Key': key, 'Content-Type': 'application/x-ndjson', ...headers },
      body,
      duplex: 'half',
      ...(signal ? { signal } : {}),
    } as RequestInit);
  const rubbish = await refusedUnread({ 'Content-Encoding': 'gzip' }, 'not gzip');
  expect(rubbish.status).toBe(422);
  async function* unfinished() {
    yield Buffer.from('"fine"\n');
    await delay(200);
    throw new Error('cut off');
  }
  await refusedUnread({}, ReadableStream.from(unfinished())).catch(() => 'cut off');
  expect((await submit(['fine'])).status).toBe(202);
  expect(gateway.child.exitCode).toBeNull();
});

test('an upload that is cut off leaves nothing', async () => {
  const before = await batchKeys();
  const cut = new AbortController();
  async function* body() {
    yield Buffer.from(ndjson(repeated(2_000)));
    await until('a piece is staged', async () => (await rig.redis.keys('{sluice}:stage:*')).length === 1);
    cut.abort();
    yield Buffer.from('"never"\n');
  }
  await expect(
    fetch(`${url}/analyze_batch`, {
      method: 'POST',
      headers: { 'X-API-Key': key, 'Content-Type': 'application/x-ndjson', 'Idempotency-Key': 'cut' },
      body: ReadableStream.from(body()),
      signal: cut.signal,
      duplex: 'half',
    } as RequestInit),
  ).rejects.toThrow();
  await leaves(before);
  expect((await submit(['fine'], { 'Idempotency-Key': 'cut' })).status).toBe(202);
});
