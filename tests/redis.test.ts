import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { unfitness } from '@sluice/shared';
import { type Answer, gatewayMain, post, Rig, request, until, workerMain } from './harness.js';

let rig: Rig;
beforeEach(async () => {
  rig = await Rig.start();
});
afterEach(() => rig.close());

test.each([
  ['redis_version:6.0.16\r\nmaxmemory_policy:noeviction\r\n', /version 6\.0\.16, and 6\.2 or later/],
  ['redis_version:5.0.7\r\n', /version 5\.0\.7/],
  ['redis_version:7.0.15\r\nmaxmemory_policy:allkeys-lru\r\n', /allkeys-lru.*set noeviction/],
  ['redis_version:10.0.1\r\nmaxmemory_policy:noeviction\r\n', undefined],
  ['redis_version:6.2.0\r\nmaxmemory_policy:noeviction\r\n', undefined],
])('a server that says %j', (info, what) => {
  if (what) expect(unfitness(info)).toMatch(what);
  else expect(unfitness(info)).toBeUndefined();
});

test('a Redis that evicts stops the start of gateway and worker with a line', async () => {
  await rig.redis.config('SET', 'maxmemory-policy', 'volatile-lru');
  for (const main of [gatewayMain, workerMain]) {
    const app = rig.spawn(main, { MODEL_PROCESSES: '1' });
    app.ready().catch(() => {});
    expect(await app.exit()).toBe(78);
    expect(app.output).toMatch(/REDIS_URL: this Redis will not do: its maxmemory-policy is volatile-lru/);
  }
});

const memory = async (field: string) =>
  Number(new RegExp(`^${field}:(\\d+)`, 'm').exec(await rig.redis.info('memory'))?.[1]);

test('batches fill a small Redis to what is theirs, and nothing that was accepted is lost', async () => {
  const key = await rig.key({ bulkLimit: 1_000_000 });
  const { url } = await rig.gateway();
  const headers = { 'X-API-Key': key };
  await rig.redis.config('SET', 'maxmemory', String((await memory('used_memory')) + 6_000_000));
  const texts = Array.from({ length: 1_500 }, (_, i) => `this is sentence number ${i} and it is good`);
  const ids: string[] = [];
  let refused: Answer | undefined;
  while (refused === undefined) {
    const answer = await post(`${url}/analyze_batch`, key, { texts });
    if (answer.status === 202) ids.push(answer.body.job_id);
    else refused = answer;
    if (ids.length > 100) break;
  }
  expect([refused?.status, refused?.body.code]).toEqual([503, 'nearly_full']);
  expect(ids.length).toBeGreaterThan(2);
  await rig.worker();
  // Interactive work goes on, also while their results come in.
  for (let i = 0; i < 20; i++) expect((await post(`${url}/predict`, key, { text: 'fine' })).status).toBe(200);
  for (const id of ids) {
    const job = async () => (await request(`${url}/jobs/${id}`, { headers })).body;
    await until('it is finished', async () => (await job()).status === 'completed', 60_000);
    expect(await job()).toMatchObject({ completed: texts.length, failed: 0 });
  }
  expect(await memory('used_memory')).toBeLessThan(await memory('maxmemory'));
  for (const id of ids)
    expect((await request(`${url}/jobs/${id}`, { method: 'DELETE', headers })).status).toBe(204);
  expect((await post(`${url}/analyze_batch`, key, { texts: ['fine'] })).status).toBe(202);
}, 120_000);

test('a Redis that somebody else fills to the brim refuses all, and what was accepted goes on afterwards', async () => {
  const key = await rig.key();
  const { url } = await rig.gateway();
  const headers = { 'X-API-Key': key };
  const texts = Array.from({ length: 2_000 }, (_, i) => `sentence ${i}`);
  const { job_id: id } = (await post(`${url}/analyze_batch`, key, { texts })).body;
  await rig.redis.config('SET', 'maxmemory', '1');
  const full = await post(`${url}/predict`, key, { text: 'fine' });
  expect([full.status, full.body.code]).toEqual([503, 'unavailable']);
  const worker = await rig.worker({ MODEL_PROCESSES: '1' });
  await until('the worker has met it', () => /The queue could not be asked|OOM/.test(worker.output));
  await rig.redis.config('SET', 'maxmemory', '0');
  const job = async () => (await request(`${url}/jobs/${id}`, { headers })).body;
  await until('it is finished', async () => (await job()).status === 'completed', 60_000);
  expect(await job()).toMatchObject({ completed: texts.length, failed: 0 });
}, 120_000);
