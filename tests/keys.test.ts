import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { accountSchema, keySchema, keyWithSecretSchema, usageSchema } from '@sluice/contract';
import { type Answer, App, cliMain, faultyWorkerMain, post, Rig, request, until } from './harness.js';

const TOKEN = 'an-admin-token-for-the-test';
let rig: Rig;
let url: string;
let adminUrl: string;
beforeAll(async () => {
  rig = await Rig.start();
  const env = { ADMIN_TOKEN: TOKEN, AUTH_FAILURES_PER_MINUTE: '1000' };
  const [gateway] = await Promise.all([
    rig.gateway(env),
    rig.worker({ MODEL_PROCESSES: '1' }, faultyWorkerMain),
  ]);
  url = gateway.url;
  adminUrl = `http://127.0.0.1:${(await gateway.app.ready()).adminPort}`;
});
afterAll(() => rig.close());

function admin(method: string, path: string, body?: unknown, token: string | null = TOKEN): Promise<Answer> {
  return request(`${adminUrl}${path}`, {
    method,
    headers: {
      ...(token === null ? {} : { Authorization: `Bearer ${token}` }),
      ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
}
const create = async (body: object) => (await admin('POST', '/admin/keys', { name: 'test', ...body })).body;
const predict = (key: string, text = 'fine') => post(`${url}/predict`, key, { text });
const me = async (key: string) => (await request(`${url}/me`, { headers: { 'X-API-Key': key } })).body;

/** Runs `sluice` with the same Redis; resolves to its JSON output. */
async function sluice(...args: string[]) {
  const cli = new App(process.execPath, [cliMain, ...args, '--json'], rig.env);
  expect(await cli.exit()).toBe(0);
  return JSON.parse(cli.output);
}

test('keys are created, read, listed, changed and revoked over the admin port and by the CLI alike', async () => {
  const created = await admin('POST', '/admin/keys', {
    name: 'acme',
    scopes: ['predict'],
    limits: [
      { limit: 3, window_seconds: 60 },
      { limit: 1_000, window_seconds: 86_400 },
    ],
    bulk_limit: 5,
    expires_at: '2100-01-01T00:00:00Z',
  });
  expect([created.status, created.headers.get('cache-control')]).toEqual([201, 'no-store']);
  const { key, ...body } = keyWithSecretSchema.parse(created.body);
  expect(created.headers.get('location')).toBe(`/admin/keys/${body.key_id}`);
  expect(body).toMatchObject({ name: 'acme', status: 'live', expires_at: '2100-01-01T00:00:00.000Z' });
  expect(accountSchema.parse(await me(key))).toMatchObject({
    scopes: ['predict'],
    limits: [
      { limit: 3, window_seconds: 60, remaining: 3 },
      { limit: 1_000, window_seconds: 86_400, remaining: 1_000 },
    ],
    bulk: { limit: 5, queued: 0 },
  });

  const got = await admin('GET', `/admin/keys/${body.key_id}`);
  expect(got.body).toMatchObject({ key_id: body.key_id, name: 'acme' });
  const listed = await sluice('keys', 'list');
  expect(listed.find((each: { key_id: string }) => each.key_id === body.key_id)).toMatchObject({
    name: 'acme',
  });
  expect(JSON.stringify([got.body, listed])).not.toContain(key.slice(-32));

  const changed = await admin('PATCH', `/admin/keys/${body.key_id}`, { limits: [], expires_at: null });
  expect(keySchema.parse(changed.body)).toMatchObject({ name: 'acme', limits: [], expires_at: null });
  expect((await me(key)).limits).toMatchObject([{ limit: 10, window_seconds: 60 }]);
  await sluice('keys', 'update', body.key_id, '--limit', '7', '--name', 'acme inc');
  expect(await me(key)).toMatchObject({ name: 'acme inc', limits: [{ limit: 7, window_seconds: 60 }] });

  expect((await admin('DELETE', `/admin/keys/${body.key_id}`)).body.status).toBe('revoked');
  expect((await predict(key)).status).toBe(403);
  for (const path of [`/admin/keys/${body.key_id}/rotate`, `/admin/keys/${body.key_id}`]) {
    const refused = await admin(path.endsWith('rotate') ? 'POST' : 'PATCH', path, {});
    expect([refused.status, refused.body.code]).toEqual([409, 'key_not_live']);
  }
});

test('the list has pages', async () => {
  for (let i = 0; i < 3; i++) await create({ name: `page ${i}` });
  const all = (await admin('GET', '/admin/keys?limit=1000')).body.keys;
  const ids: string[] = [];
  let cursor: string | null = '';
  while (cursor !== null) {
    const page: Answer = await admin('GET', `/admin/keys?limit=2${cursor ? `&cursor=${cursor}` : ''}`);
    expect(page.body.keys.length).toBeLessThanOrEqual(2);
    ids.push(...page.body.keys.map((each: { key_id: string }) => each.key_id));
    cursor = page.body.next_cursor;
  }
  expect(ids).toEqual(all.map((each: { key_id: string }) => each.key_id));
  expect(ids.length).toBeGreaterThanOrEqual(3);
});

test.each([
  ['no name', {}, ['/name']],
  ['a name of two lines', { name: 'a\nb' }, ['/name']],
  ['an unknown scope', { name: 'a', scopes: ['all'] }, ['/scopes/0']],
  [
    'two windows of the same length',
    { name: 'a', limits: [1, 2].map((limit) => ({ limit, window_seconds: 60 })) },
    ['/limits'],
  ],
  ['a limit of 0', { name: 'a', limits: [{ limit: 0, window_seconds: 60 }] }, ['/limits/0/limit']],
  ['an invalid date', { name: 'a', expires_at: 'soon' }, ['/expires_at']],
])('a key with %s is refused', async (_, body, pointers) => {
  const { status, body: problem } = await admin('POST', '/admin/keys', body);
  expect([status, problem.errors?.map((error: { pointer: string }) => error.pointer)]).toEqual([
    422,
    pointers,
  ]);
});

test('the admin port needs its token, and has no key routes without one', async () => {
  for (const [token, code] of [
    [null, 'not_authenticated'],
    ['wrong-admin-token', 'invalid_admin_token'],
  ] as const) {
    const refused = await admin('GET', '/admin/keys', undefined, token);
    expect([refused.status, refused.body.code]).toEqual([401, code]);
    expect(refused.headers.get('www-authenticate')).toMatch(/^Bearer/);
  }
  // An API key is not a token, and the public port has no such routes.
  const { key } = await create({});
  expect((await admin('GET', '/admin/keys', undefined, key)).status).toBe(401);
  expect((await request(`${url}/admin/keys`, { headers: { Authorization: `Bearer ${TOKEN}` } })).status).toBe(
    404,
  );
  expect((await request(`${adminUrl}/health`)).body).toEqual({ status: 'ok' });
  expect((await request(`${adminUrl}/ready`)).status).toBe(200);

  const without = await rig.gateway();
  const off = `http://127.0.0.1:${(await without.app.ready()).adminPort}/admin/keys`;
  expect((await request(off, { headers: { Authorization: 'Bearer undefined' } })).status).toBe(404);
});

test('failed authentications with the admin token are limited too', async () => {
  const guarded = await rig.gateway({ ADMIN_TOKEN: TOKEN, AUTH_FAILURES_PER_MINUTE: '2' });
  await rig.redis.del('{sluice}:failed-auth:127.0.0.1');
  const path = `http://127.0.0.1:${(await guarded.app.ready()).adminPort}/admin/keys`;
  const statuses = [];
  for (let i = 0; i < 4; i++) {
    statuses.push(
      (await request(path, { headers: { Authorization: `Bearer wrong-token-number-${i}` } })).status,
    );
  }
  expect(statuses).toEqual([401, 401, 429, 429]);
  expect((await request(path, { headers: { Authorization: `Bearer ${TOKEN}` } })).status).toBe(200);
});

test('a rotated key keeps id, windows and jobs; the old secret ends after the grace period', async () => {
  const { key: old, key_id: id } = await create({ limits: [{ limit: 5, window_seconds: 3_600 }] });
  expect((await predict(old)).status).toBe(200);
  const job = (await post(`${url}/analyze_batch`, old, { texts: ['fine'] })).body.job_id;

  const first = await admin('POST', `/admin/keys/${id}/rotate`, { grace_seconds: 3_600 });
  const { key } = keyWithSecretSchema.parse(first.body);
  expect([first.status, first.body.key_id, key === old]).toEqual([200, id, false]);
  expect(Date.parse(first.body.previous_secret_until)).toBeGreaterThan(Date.now() + 3_500_000);
  for (const each of [old, key]) expect((await me(each)).key_id).toBe(id);
  expect((await me(key)).limits[0].remaining).toBe(3);
  expect((await request(`${url}/jobs/${job}`, { headers: { 'X-API-Key': key } })).status).toBe(200);

  // Once more without a grace period: of three secrets only the last one is valid.
  const last = await sluice('keys', 'rotate', id);
  expect(last).toMatchObject({ key_id: id, previous_secret_until: null });
  for (const each of [old, key]) expect((await predict(each)).status).toBe(403);
  expect((await me(last.key)).limits[0].remaining).toBe(3);

  // A grace period that ends.
  const next = await admin('POST', `/admin/keys/${id}/rotate`, { grace_seconds: 1 });
  expect((await me(last.key)).key_id).toBe(id);
  await until('the grace period has ended', async () => (await predict(last.key)).status === 403, 5_000);
  expect((await me(next.body.key)).key_id).toBe(id);
});

test('all of several windows are counted, and the response describes the tightest', async () => {
  const { key } = await create({
    limits: [
      { limit: 3, window_seconds: 60 },
      { limit: 4, window_seconds: 86_400 },
    ],
  });
  const first = await predict(key);
  expect(first.body.requests_remaining).toBe(2);
  expect(first.headers.get('ratelimit-policy')).toBe('"default";q=3;w=60, "86400s";q=4;w=86400');
  expect(first.headers.get('ratelimit')).toBe('"default";r=2;t=60');
  await predict(key);
  await predict(key);
  const refused = await predict(key);
  expect([refused.status, refused.headers.get('ratelimit')]).toEqual([
    429,
    expect.stringMatching(/^"default";r=0;t=\d+$/),
  ]);
  expect((await me(key)).limits).toMatchObject([{ remaining: 0 }, { remaining: 1 }]);
});

test('usage by day has requests, texts and refusals; the record has the time of last use', async () => {
  const { key, key_id: id } = await create({
    limits: [{ limit: 4, window_seconds: 3_600 }],
    scopes: ['predict', 'batch'],
  });
  expect((await predict(key)).status).toBe(200);
  expect((await predict(key, '«refuse»')).status).toBe(500);
  expect((await predict(key, '')).status).toBe(422);
  expect((await post(`${url}/analyze_batch`, key, { texts: ['a', 'b', 'c'] })).status).toBe(202);
  for (let i = 0; i < 2; i++) expect((await predict(key)).status).toBe(429);
  await admin('PATCH', `/admin/keys/${id}`, { scopes: ['batch'] });
  expect((await predict(key)).status).toBe(403);
  // Neither reading the account nor a failed authentication is usage.
  await me(key);
  expect((await predict(`${key.slice(0, -32)}${'A'.repeat(32)}`)).status).toBe(403);

  const usage = async () => usageSchema.parse((await admin('GET', `/admin/keys/${id}/usage`)).body).days;
  await until('the usage is reported', async () => (await usage())[0]?.refused === 3);
  const date = new Date().toISOString().slice(0, 10);
  const [day, ...others] = await usage();
  expect([day, others]).toEqual([{ date, requests: 4, texts: 4, refused: 3 }, []]);
  expect((await sluice('keys', 'usage', id)).days).toEqual([day]);
  const { last_used_at: lastUsed } = (await admin('GET', `/admin/keys/${id}`)).body;
  expect(Math.abs(Date.parse(lastUsed) - Date.now())).toBeLessThan(30_000);
});

test('a draining gateway reports its usage', async () => {
  const other = await rig.gateway();
  const { key, key_id: id } = await create({});
  expect((await post(`${other.url}/predict`, key, { text: 'fine' })).status).toBe(200);
  await other.app.stop();
  expect((await admin('GET', `/admin/keys/${id}/usage`)).body.days).toMatchObject([
    { requests: 1, texts: 1 },
  ]);
});

test.each(['GET /admin/keys/0123456789ab', 'DELETE /admin/keys/%00', 'GET /admin/keys/0123456789ab/usage'])(
  'an unknown key gets 404: %s',
  async (line) => {
    const [method = '', path = ''] = line.split(' ');
    expect((await admin(method, path)).status).toBe(404);
  },
);
