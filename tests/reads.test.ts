import { afterAll, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { keyIdOf } from '@sluice/shared';
import { type App, post, Rig, request, until } from './harness.js';
import { FaultyProxy } from './soak/faultyProxy.js';

const READS = 30;
let rig: Rig;
let url: string;
let gateway: App;
let otherUrl: string;
let key: string;

const env = { READ_LIMIT_REQUESTS: String(READS), MAX_STREAMS: '2' };
beforeAll(async () => {
  rig = await Rig.start();
  [{ url, app: gateway }, { url: otherUrl }] = await Promise.all([rig.gateway(env), rig.gateway(env)]);
});
beforeEach(async () => {
  key = await rig.key();
});
afterAll(() => rig.close());

const get = (path: string, headers: Record<string, string> = {}, method = 'GET', at = url) =>
  request(`${at}${path}`, { method, headers: { 'X-API-Key': key, ...headers } });
const submit = async (texts: string[]): Promise<string> =>
  (await post(`${url}/analyze_batch`, key, { texts })).body.job_id;

/** Opens a stream of the events of a job. */
async function open(id: string, at: string) {
  const abort = new AbortController();
  const response = await fetch(`${at}/jobs/${id}/events`, {
    headers: { 'X-API-Key': key },
    signal: abort.signal,
  });
  return { status: response.status, response, close: () => abort.abort() };
}

/** Commands that reach Redis while an action runs; those of scripts are not among them. */
async function commandsDuring(action: () => Promise<unknown>): Promise<string[]> {
  const commands: string[] = [];
  const stop = await rig.monitor((words) => commands.push(words.join(' ')));
  try {
    await action();
    await rig.redis.echo('last');
    await until('all were seen', () => commands.includes('echo last'));
  } finally {
    stop();
  }
  return commands;
}

test('reads of a key have a separate window at all gateways; other keys, work and open routes do not count', async () => {
  const paths = ['/jobs', '/me', '/models', '/items/', '/jobs/nobody'];
  for (let i = 0; i < READS; i++) {
    const answer = await get(
      paths[i % paths.length] ?? '',
      {},
      i % 2 ? 'GET' : 'HEAD',
      i % 3 ? url : otherUrl,
    );
    expect(answer.status).toBeLessThan(429);
  }
  for (const at of [url, otherUrl]) {
    const refused = await get('/jobs', {}, 'GET', at);
    expect([refused.status, refused.body.code]).toEqual([429, 'rate_limited']);
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(Number(refused.headers.get('retry-after'))).toBeLessThanOrEqual(60);
  }
  expect((await post(`${url}/predict`, key, { text: 'fine' })).body.code).toBe('no_worker');
  expect((await request(`${url}/ready`)).status).toBe(200);
  key = await rig.key();
  expect((await get('/jobs')).status).toBe(200);
});

test('a key holds at most MAX_STREAMS streams of events at all gateways; a closed one makes room', async () => {
  const id = await submit(['fine']);
  const [first, second] = [await open(id, url), await open(id, otherUrl)];
  expect([first.status, second.status]).toEqual([200, 200]);
  for (const at of [url, otherUrl]) {
    const refused = await get(`/jobs/${id}/events`, {}, 'GET', at);
    expect([refused.status, refused.body.code, refused.headers.get('retry-after')]).toEqual([
      429,
      'too_many_streams',
      '5',
    ]);
  }
  second.close();
  await until('there is room', async () => {
    const again = await open(id, url);
    again.close();
    return again.status === 200;
  });
  first.close();
  expect((await get(`/jobs/${id}/events`, {}, 'HEAD')).status).toBe(200);
});

test('streams that are closed while a connection to Redis hangs make room', async () => {
  const proxy = new FaultyProxy(Number(new URL(rig.redisUrl).port));
  try {
    const REDIS_URL = `redis://127.0.0.1:${await proxy.start()}`;
    const { url: proxied, app } = await rig.gateway({ ...env, REDIS_URL });
    const id = await submit(['fine']);
    const streams = [await open(id, proxied), await open(id, proxied)];
    expect(streams.map(({ status }) => status)).toEqual([200, 200]);
    const counted = () => rig.redis.zcard(`{sluice}:streams:${keyIdOf(key)}`);
    expect(await counted()).toBe(2);
    proxy.hang();
    for (const { close } of streams) close();
    // Without their ends they would count for 30 s.
    await until('there is room', async () => (await counted()) === 0, 20_000);
    await app.stop();
  } finally {
    proxy.close();
  }
});

test('a page of jobs is one call to Redis', async () => {
  const ids: string[] = [];
  for (let i = 0; i < 12; i++) ids.unshift(await submit([`text ${i}`]));
  let page: string[] = [];
  const commands = await commandsDuring(async () => {
    page = (await get('/jobs?limit=10')).body.jobs.map(({ job_id }: { job_id: string }) => job_id);
  });
  expect(page).toEqual(ids.slice(0, 10));
  expect(commands.filter((command) => /^(hgetall|hmget|zrevrange) .*:jobs?:/.test(command))).toEqual([]);
  expect(commands.filter((command) => /^evalsha .*:jobs:/i.test(command))).toHaveLength(1);
  const { body } = await get('/jobs?limit=10');
  expect((await get(`/jobs?limit=10&cursor=${body.next_cursor}`)).body).toMatchObject({
    jobs: ids.slice(10).map((job_id) => ({ job_id })),
    next_cursor: null,
  });
});

test.each(['abc', '0', '-1', '1.5', '1e2', '1001', ''])(
  'a page of %j entries is refused with 422, and the error does not mention NaN',
  async (limit) => {
    const answer = await get(`/jobs?limit=${limit}`);
    expect([answer.status, answer.body.errors[0].pointer]).toEqual([422, '/limit']);
    expect(JSON.stringify(answer.body)).not.toContain('NaN');
  },
);

test('results as NDJSON begin at the cursor and end at the limit; HEAD reads none', async () => {
  const texts = Array.from({ length: 70 }, (_, i) => `text ${i}`);
  const id = await submit(texts);
  expect((await get(`/jobs/${id}/cancel`, {}, 'POST')).body.status).toBe('canceled');
  const ndjson = { Accept: 'application/x-ndjson' };
  const indexes = async (query: string) =>
    String((await get(`/jobs/${id}/results${query}`, ndjson)).body)
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line).index);
  const all = texts.map((_, i) => i);
  const { next_cursor: cursor } = (await get(`/jobs/${id}/results?limit=33`)).body;
  expect(await indexes('')).toEqual(all);
  expect(await indexes(`?cursor=${cursor}`)).toEqual(all.slice(33));
  expect(await indexes('?limit=3')).toEqual([0, 1, 2]);
  expect(await indexes(`?cursor=${cursor}&limit=34`)).toEqual(all.slice(33, 67));
  expect((await get(`/jobs/${id}/results?limit=0`, ndjson)).status).toBe(422);
  for (const headers of [{}, ndjson] as Record<string, string>[]) {
    const commands = await commandsDuring(async () => {
      const head = await get(`/jobs/${id}/results`, headers, 'HEAD');
      expect([head.status, head.body]).toEqual([200, '']);
      expect(head.headers.get('content-type')).toContain(headers.Accept ?? 'application/json');
    });
    expect(commands.filter((command) => /^hmget .*:(items|results)/.test(command))).toEqual([]);
  }
});

test('a stream of results is broken off when Redis fails after its first bytes', async () => {
  const { body } = await request(`${url}/analyze_batch`, {
    method: 'POST',
    headers: { 'X-API-Key': key, 'Content-Type': 'application/x-ndjson' },
    // More than the buffers between here and Redis hold.
    body: Array.from({ length: 6_000 }, (_, i) => `"${i} ${'x'.repeat(9_000)}"\n`).join(''),
  });
  const id = body.job_id;
  await get(`/jobs/${id}/cancel`, {}, 'POST');
  const response = await fetch(`${url}/jobs/${id}/results`, {
    headers: { 'X-API-Key': key, Accept: 'application/x-ndjson' },
  });
  expect(response.status).toBe(200);
  const reader = response.body?.getReader();
  await reader?.read();
  process.kill(rig.redisPid, 'SIGSTOP');
  try {
    const rest = async () => {
      while (!(await reader?.read())?.done);
    };
    await expect(rest()).rejects.toThrow(/terminated/);
    // It is an error of the gateway, not of a client that left.
    await until('the line is logged', () =>
      new RegExp(`"level":50.*${id}/results","status":500`).test(gateway.output),
    );
  } finally {
    process.kill(rig.redisPid, 'SIGCONT');
  }
  await until('it is back', async () => (await request(`${url}/ready`)).status === 200);
});
