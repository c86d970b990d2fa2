import { spawnSync } from 'node:child_process';
import { hostname, userInfo } from 'node:os';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { type App, cliMain, faultyWorkerMain, post, Rig, request, until } from './harness.js';

const ADMIN_TOKEN = 'the-admin-token-of-the-test';
let rig: Rig;
let url: string;
let adminUrl: string;
let gateway: App;
let worker: App;
let key: string;

beforeAll(async () => {
  rig = await Rig.start();
  const env = { LOG_LEVEL: 'info', ADMIN_TOKEN };
  [{ url, app: gateway }, worker, key] = await Promise.all([
    rig.gateway(env),
    rig.worker({ ...env, MODEL_PROCESSES: '1' }, faultyWorkerMain),
    rig.key(),
  ]);
  adminUrl = `http://127.0.0.1:${(await gateway.ready()).adminPort}`;
});
afterAll(() => rig.close());

/** Lines of a log with a message. */
const lines = (app: App, message: string) =>
  app.output
    .split('\n')
    .filter((line) => line.startsWith('{') && line.includes(message))
    .map((line) => JSON.parse(line))
    .filter(({ msg }) => msg === message);

test('a job has a line when it is accepted and one when it has ended, by the worker or the gateway', async () => {
  const { job_id } = (await post(`${url}/analyze_batch`, key, { texts: ['fine', '«refuse»', 'fine'] })).body;
  const keyId = (await request(`${url}/me`, { headers: { 'X-API-Key': key } })).body.key_id;
  const job = { job_id, key_id: keyId, model: 'minilm-l6-sst2', total: 3 };
  await until('its start is logged', () => lines(gateway, 'Job accepted').length > 0);
  expect(lines(gateway, 'Job accepted')).toMatchObject([job]);
  await until('its end is logged', () => lines(worker, 'Job ended').length > 0);
  expect(lines(worker, 'Job ended')).toMatchObject([
    { ...job, status: 'completed', completed: 2, failed: 1, seconds: expect.any(Number) },
  ]);
  const slow = (await post(`${url}/analyze_batch`, key, { texts: ['«slow:1500»'] })).body;
  await request(`${url}/jobs/${slow.job_id}/cancel`, { method: 'POST', headers: { 'X-API-Key': key } });
  await until('its end is logged', () => lines(gateway, 'Job ended').length > 0);
  expect(lines(gateway, 'Job ended')).toMatchObject([
    { job_id: slow.job_id, status: 'canceled', completed: 0 },
  ]);
});

test('the request id is on the lines of the worker, also if clients repeat it; a 5xx is an error or a warning', async () => {
  const send = (text: string) =>
    request(`${url}/predict`, {
      method: 'POST',
      headers: { 'X-API-Key': key, 'Content-Type': 'application/json', 'X-Request-Id': 'my-request' },
      body: JSON.stringify({ text }),
    });
  const answers = await Promise.all(['«refuse»', 'This is wonderful', 'This is awful'].map(send));
  expect(answers.map(({ status, body }) => body.sentiment ?? status)).toEqual([500, 'positive', 'negative']);
  await until('the worker has logged it', () =>
    lines(worker, 'Item failed when it ran alone').some(
      ({ level, kind, request_id: id }) => level === 40 && kind === 'refused' && id === 'my-request',
    ),
  );
  await until('the gateway has logged it', () =>
    lines(gateway, 'Request completed').some(({ status }) => status === 500),
  );
  expect(lines(gateway, 'Request completed')).toContainEqual(
    expect.objectContaining({ level: 50, request_id: 'my-request', status: 500, code: 'analysis_failed' }),
  );
  expect(worker.output).not.toContain('refuses this text');
});

test('a 503 has its cause', async () => {
  await rig.redis.config('SET', 'maxmemory', '1');
  expect((await post(`${url}/predict`, key, { text: 'fine' })).status).toBe(503);
  await rig.redis.config('SET', 'maxmemory', '0');
  await until('the line is logged', () =>
    lines(gateway, 'Request completed').some(
      ({ level, status, err }) => level === 40 && status === 503 && /OOM/.test(err?.message),
    ),
  );
});

test('a change of a key has one line with who made it, over the admin port and by the CLI', async () => {
  const cli = (...args: string[]) =>
    JSON.parse(
      spawnSync(process.execPath, [cliMain, 'keys', ...args, '--json'], {
        env: { REDIS_URL: rig.redisUrl },
        encoding: 'utf8',
      }).stdout,
    );
  const admin = (method: string, path: string, body?: object) =>
    request(`${adminUrl}/admin/keys${path}`, {
      method,
      headers: {
        Authorization: `Bearer ${ADMIN_TOKEN}`,
        ...(body ? { 'Content-Type': 'application/json' } : {}),
      },
      ...(body ? { body: JSON.stringify(body) } : {}),
    });
  const own = (await admin('POST', '', { name: 'by admin' })).body.key_id;
  const { key_id: other } = cli('create', '--name', 'by cli');
  cli('update', other, '--bulk', '5');
  cli('rotate', other);
  for (let i = 0; i < 2; i++) {
    cli('revoke', other);
    await admin('DELETE', `/${own}`);
  }
  await until('all are logged', () => lines(gateway, 'Key revoked').length >= 2);
  const said = (id: string) =>
    ['Key created', 'Key changed', 'Key rotated', 'Key revoked'].flatMap((what) =>
      lines(gateway, what)
        .filter(({ key_id }) => key_id === id)
        .map(({ by, address }) => [what, by, address]),
    );
  expect(said(own)).toEqual([
    ['Key created', 'admin token', '127.0.0.1'],
    ['Key revoked', 'admin token', '127.0.0.1'],
  ]);
  const user = `${userInfo().username}@${hostname()}`;
  expect(said(other)).toEqual(
    ['Key created', 'Key changed', 'Key rotated', 'Key revoked'].map((what) => [what, user, undefined]),
  );
});

test('a rotation needs no body; unknown fields are refused on the admin port', async () => {
  const send = (method: string, path: string, body?: string) =>
    request(`${adminUrl}/admin/keys${path}`, {
      method,
      headers: {
        Authorization: `Bearer ${ADMIN_TOKEN}`,
        ...(body ? { 'Content-Type': 'application/json' } : {}),
      },
      ...(body ? { body } : {}),
    });
  const { key_id: id } = (await send('POST', '', '{"name": "x"}')).body;
  expect((await send('POST', `/${id}/rotate`)).status).toBe(200);
  for (const [method, path, body] of [
    ['POST', '', '{"name": "x", "limit": 5}'],
    ['POST', '', '{"name": "x", "limits": [{"limit": 1, "window": 5, "window_seconds": 5}]}'],
    ['PATCH', `/${id}`, '{"expires": null}'],
    ['POST', `/${id}/rotate`, '{"grace": 5}'],
  ] as const) {
    const { status, body: answer } = await send(method, path, body);
    expect([status, answer.errors[0].detail]).toEqual([422, expect.stringMatching(/nrecognized key/)]);
  }
});

test('the log says when the last live worker ends, and when one is back', async () => {
  await worker.stop();
  await until(
    'the line is logged',
    () => lines(gateway, 'No live worker serves a model any more').length === 1,
  );
  expect(lines(gateway, 'No live worker serves a model any more')).toMatchObject([
    { level: 40, model: 'minilm-l6-sst2' },
  ]);
  await rig.worker({ MODEL_PROCESSES: '1' });
  await until('the line is logged', () => lines(gateway, 'A model has a live worker again').length === 1);
});
