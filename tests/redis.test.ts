import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { createServer as createTlsServer } from 'node:tls';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  connectRedis,
  isFailover,
  isStorageFull,
  isWrongSetting,
  keepSubscribed,
  keyIdOf,
  unsupportedReason,
} from '@sluice/shared';
import selfsigned from 'selfsigned';
import { startRedis, startWatcher, stopRedis } from '../scripts/redis.mjs';
import {
  type Answer,
  cliMain,
  gatewayMain,
  post,
  Rig,
  request,
  root,
  silentLog,
  until,
  workerMain,
} from './harness.js';
import { FaultyProxy } from './soak/faultyProxy.js';

let rig: Rig;
const watched = startWatcher(0);
beforeEach(async () => {
  rig = await Rig.start();
});
afterEach(() => rig.close());

test.each([
  [
    'redis_version:6.0.16\r\nmaxmemory_policy:noeviction\r\n',
    /version 6\.0\.16 is too old; use 6\.2 or later/,
  ],
  ['redis_version:5.0.7\r\n', /version 5\.0\.7/],
  ['redis_version:7.0.15\r\nmaxmemory_policy:allkeys-lru\r\n', /must be noeviction, not allkeys-lru/],
  ['redis_version:10.0.1\r\nmaxmemory_policy:noeviction\r\n', undefined],
  ['redis_version:6.2.0\r\nmaxmemory_policy:noeviction\r\n', undefined],
])('INFO %j is accepted, or refused with the reason', (info, what) => {
  if (what) expect(unsupportedReason(info)).toMatch(what);
  else expect(unsupportedReason(info)).toBeUndefined();
});

test.each([
  ["READONLY You can't write against a read only replica.", isFailover],
  [
    "ERR Error running script (call to f_0): @user_script:3: @user_script: 3: -READONLY You can't write",
    isFailover,
  ],
  ['LOADING Redis is loading the dataset in memory', isFailover],
  ['MASTERDOWN Link with MASTER is down', isFailover],
  ['CLUSTERDOWN The cluster is down', isFailover],
  ["OOM command not allowed when used memory > 'maxmemory'.", isStorageFull],
  ["ERR Error running script: -OOM command not allowed when used memory > 'maxmemory'.", isStorageFull],
  ['MISCONF Errors writing to the AOF file: No space left on device', isStorageFull],
  ['WRONGPASS invalid username-password pair or user is disabled.', isWrongSetting],
  ['NOAUTH Authentication required.', isWrongSetting],
  ["NOPERM this user has no permissions to run the 'info' command", isWrongSetting],
])('the error of Redis %j is recognized', (message, recognizes) => {
  for (const judge of [isFailover, isStorageFull, isWrongSetting])
    expect(judge(new Error(message))).toBe(judge === recognizes);
  const aborted = Object.assign(new Error('EXECABORT Transaction discarded'), {
    previousErrors: [new Error(message)],
  });
  expect(recognizes(aborted)).toBe(true);
  expect(recognizes(new Error('ERR unknown command'))).toBe(false);
});

test('an evicting Redis stops the start of gateway and worker with one line', async () => {
  await rig.redis.config('SET', 'maxmemory-policy', 'volatile-lru');
  for (const main of [gatewayMain, workerMain]) {
    const app = rig.spawn(main, { MODEL_PROCESSES: '1' });
    app.ready().catch(() => {});
    expect(await app.exit()).toBe(78);
    expect(app.output).toMatch(
      /REDIS_URL: unsupported Redis configuration: maxmemory-policy must be noeviction, not volatile-lru/,
    );
  }
});

test('a database that the server does not have stops gateway, worker and CLI before they write', async () => {
  const REDIS_URL = `${rig.redisUrl}/99`;
  for (const main of [gatewayMain, workerMain]) {
    const app = rig.spawn(main, { REDIS_URL, MODEL_PROCESSES: '1' });
    app.ready().catch(() => {});
    expect(await app.exit()).toBe(78);
    expect(app.output).toMatch(/REDIS_URL: database 99: ERR DB index is out of range/);
  }
  const args = [cliMain, 'keys', 'create', '--name', 'x'];
  for (const [url, message] of [
    [REDIS_URL, /^sluice: REDIS_URL: database 99: ERR DB index is out of range\n$/],
    [`${rig.redisUrl}/abc`, /^sluice: REDIS_URL: the path is not a database number.*\n$/],
  ] as const) {
    const { status, stderr } = spawnSync(process.execPath, args, {
      env: { REDIS_URL: url },
      encoding: 'utf8',
    });
    expect([status, stderr]).toEqual([2, expect.stringMatching(message)]);
  }
  expect(await rig.redis.keys('*')).toEqual([]);
});

test('a subscription that is not confirmed after a reconnect is repeated, and does not end the process', async () => {
  const { port } = new URL(rig.redisUrl);
  let connections = 0;
  // On the second connection it loses the subscription.
  const proxy = createServer((client) => {
    const number = ++connections;
    const server = connect(Number(port), '127.0.0.1');
    client.on('data', (data) => {
      if (number !== 2 || !/subscribe/i.test(data.toString())) server.write(data);
    });
    server.on('data', (data) => client.write(data));
    for (const [one, other] of [
      [client, server],
      [server, client],
    ] as const)
      one.on('error', () => {}).on('close', () => other.destroy());
  }).listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  const rejections: unknown[] = [];
  const onRejection = (reason: unknown) => rejections.push(reason);
  process.on('unhandledRejection', onRejection);
  const url = `redis://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  const subscriber = connectRedis(url, 'subscriber', silentLog);
  try {
    const received: string[] = [];
    subscriber.on('message', (_channel, message) => received.push(message));
    await keepSubscribed(subscriber, '{sluice}:test', silentLog);
    await rig.redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
    await until('the message arrives', async () => {
      await rig.redis.publish('{sluice}:test', 'hello');
      return received.length > 0;
    });
    expect(connections).toBe(3);
    expect(rejections).toEqual([]);
  } finally {
    process.off('unhandledRejection', onRejection);
    subscriber.disconnect();
    proxy.close();
  }
});

const memory = async (field: string) =>
  Number(new RegExp(`^${field}:(\\d+)`, 'm').exec(await rig.redis.info('memory'))?.[1]);

test('jobs fill a small Redis only up to their share, and no accepted job is lost', async () => {
  const key = await rig.key({ bulkLimit: 1_000_000 });
  // A tiny model, since the jobs have more than ten thousand texts.
  const env = rig.models([
    {
      id: 'bert-labels',
      task: 'text-classification',
      source: join(root, 'tests/reference/models/bert-labels'),
      dtype: 'fp32',
    },
  ]);
  const { url } = await rig.gateway(env);
  const headers = { 'X-API-Key': key };
  await rig.redis.config('SET', 'maxmemory', String((await memory('used_memory')) + 3_000_000));
  const texts = Array.from({ length: 600 }, (_, i) => `this is sentence number ${i} and it is good`);
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
  await rig.worker(env);
  // Interactive requests are served, also while results are stored.
  for (let i = 0; i < 20; i++) expect((await post(`${url}/predict`, key, { text: 'fine' })).status).toBe(200);
  for (const id of ids) {
    const job = async () => (await request(`${url}/jobs/${id}`, { headers })).body;
    await until('it is finished', async () => (await job()).status === 'completed', 120_000);
    expect(await job()).toMatchObject({ completed: texts.length, failed: 0 });
  }
  expect(await memory('used_memory')).toBeLessThan(await memory('maxmemory'));
  for (const id of ids)
    expect((await request(`${url}/jobs/${id}`, { method: 'DELETE', headers })).status).toBe(204);
  expect((await post(`${url}/analyze_batch`, key, { texts: ['fine'] })).status).toBe(202);
}, 240_000);

test('in a full Redis work gets storage_full; results can be read, jobs canceled and erased; then accepted jobs continue', async () => {
  const key = await rig.key();
  const { url, app: gateway } = await rig.gateway();
  const headers = { 'X-API-Key': key };
  const job = async (id: string) => (await request(`${url}/jobs/${id}`, { headers })).body;
  const worker = await rig.worker({ MODEL_PROCESSES: '1' });
  const submit = async (texts: string[]) => (await post(`${url}/analyze_batch`, key, { texts })).body.job_id;
  const finished = await submit(['fine']);
  await until('a job is finished', async () => (await job(finished)).status === 'completed');
  await worker.stop();
  const canceled = await submit(['to be canceled']);
  const texts = Array.from({ length: 300 }, (_, i) => `sentence ${i}`);
  const kept = await submit(texts);

  const other = await rig.key();
  await rig.redis.config('SET', 'maxmemory', '1');
  for (const [path, body] of [
    ['/predict', { text: 'fine' }],
    ['/analyze_batch', { texts: ['fine'] }],
  ] as const) {
    const full = await post(`${url}${path}`, key, body);
    expect([full.status, full.body.code, full.headers.get('retry-after')]).toEqual([
      503,
      'storage_full',
      '30',
    ]);
  }
  await until('the storage is full', async () => (await request(`${url}/ready`)).body.storage === 'full');
  expect((await request(`${url}/ready`)).status).toBe(200);
  await until('the log has the line', () => gateway.output.includes('Redis is full'));
  expect(gateway.output.match(/"level":40.*Redis is full/g)).toHaveLength(1);
  const create = spawnSync(process.execPath, [cliMain, 'keys', 'create', '--name', 'x'], {
    env: { REDIS_URL: rig.redisUrl },
    encoding: 'utf8',
  });
  expect([create.status, create.stderr]).toEqual([1, expect.stringMatching(/^sluice: Redis is full, .*\n$/)]);
  const results = await request(`${url}/jobs/${finished}/results`, { headers });
  expect(results.body.results).toMatchObject([{ text: 'fine', sentiment: 'positive' }]);
  const revoke = spawnSync(process.execPath, [cliMain, 'keys', 'revoke', keyIdOf(other), '--json'], {
    env: { REDIS_URL: rig.redisUrl },
    encoding: 'utf8',
  });
  expect([revoke.status, JSON.parse(revoke.stdout).status]).toEqual([0, 'revoked']);
  expect((await request(`${url}/me`, { headers: { 'X-API-Key': other } })).status).toBe(403);
  const cancel = await request(`${url}/jobs/${canceled}/cancel`, { method: 'POST', headers });
  expect([cancel.status, cancel.body.status]).toEqual([200, 'canceled']);
  for (const id of [finished, canceled])
    expect((await request(`${url}/jobs/${id}`, { method: 'DELETE', headers })).status).toBe(204);

  const second = await rig.worker({ MODEL_PROCESSES: '1' });
  await until('the worker has seen the error', () => /Could not read the queue|OOM/.test(second.output));
  await rig.redis.config('SET', 'maxmemory', '0');
  await until('it is finished', async () => (await job(kept)).status === 'completed', 60_000);
  expect(await job(kept)).toMatchObject({ completed: texts.length, failed: 0 });
  await until('the line is logged', async () => (await request(`${url}/ready`)).body.storage === 'ok');
  expect(gateway.output).toMatch(/"level":30.*Redis takes writes again/);
}, 120_000);

describe('a connection that Redis refuses', () => {
  const wrong = async (REDIS_URL: string, reason: RegExp) => {
    for (const main of [gatewayMain, workerMain]) {
      const app = rig.spawn(main, { REDIS_URL, MODEL_PROCESSES: '1' });
      app.ready().catch(() => {});
      expect(await app.exit()).toBe(78);
      expect(app.output).toMatch(reason);
      // One line says it.
      expect(app.output.match(/"level":(40|50|60)/g)).toHaveLength(1);
      expect(app.output).not.toContain('wrong-secret');
    }
    // Not spawnSync: the server may be in this process.
    const child = spawn(process.execPath, [cliMain, 'keys', 'list'], { env: { REDIS_URL } });
    const closed = once(child, 'close');
    const stderr = await text(child.stderr);
    expect([(await closed)[0], stderr]).toEqual([2, expect.stringMatching(reason)]);
    expect(stderr).not.toContain('wrong-secret');
  };

  test('because of a wrong or missing password stops gateway, worker and CLI with the message of Redis', async () => {
    await rig.redis.config('SET', 'requirepass', 'right');
    await wrong(rig.redisUrl.replace('//', '//:wrong-secret@'), /REDIS_URL: .*WRONGPASS/);
    await wrong(rig.redisUrl, /REDIS_URL: .*NOAUTH/);
  }, 60_000);

  test('because of its certificate stops gateway, worker and CLI', async () => {
    const { private: privateKey, cert } = await selfsigned.generate([
      { name: 'commonName', value: 'localhost' },
    ]);
    const server = createTlsServer({ key: privateKey, cert }, (socket) => {
      socket.on('error', () => socket.destroy());
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    await wrong(`rediss://127.0.0.1:${port}`, /REDIS_URL: .*self-signed certificate/);
    server.close();
  }, 60_000);

  test('later is an error in the log, and the gateway continues when it is accepted again', async () => {
    const { url, app } = await rig.gateway();
    await rig.redis.config('SET', 'requirepass', 'changed');
    const clients = String(await rig.redis.client('LIST')).split('\n');
    for (const [, id] of clients.flatMap((line) => [
      /^id=(\d+) .*name=sluice-(?:request|blocking) /.exec(line) ?? [],
    ]))
      if (id) await rig.redis.call('CLIENT', 'KILL', 'ID', id);
    await until('the line is logged', () =>
      /"level":50.*NOAUTH.*Redis refuses the connection/.test(app.output),
    );
    expect((await request(`${url}/ready`)).status).toBe(503);
    await rig.redis.config('SET', 'requirepass', '');
    await until('it is ready', async () => (await request(`${url}/ready`)).status === 200);
    await until('the line is logged', () => /Redis is back after/.test(app.output));
  });
});

test('a gateway opens its port when it has read from Redis what its first requests need', async () => {
  const proxy = new FaultyProxy(Number(new URL(rig.redisUrl).port));
  proxy.latencyMs = 75;
  const REDIS_URL = `redis://127.0.0.1:${await proxy.start()}`;
  try {
    const key = await rig.key();
    await rig.worker();
    // `rig.gateway` would ask `/ready`, which reads from Redis.
    const { port: publicPort } = await rig.spawn(gatewayMain, { REDIS_URL }).ready();
    const url = `http://127.0.0.1:${publicPort}`;
    const [info, moderation, answer, streams] = await Promise.all([
      request(`${url}/info`, { headers: { 'X-API-Key': key } }),
      post(`${url}/v1/moderations`, key, { input: 'fine' }),
      post(`${url}/predict`, key, { text: 'fine' }),
      rig.redis.keys('{sluice}:replies:*'),
    ]);
    expect([info.status, answer.status, streams.length]).toEqual([200, 200, 1]);
    expect(moderation.body.error.message).toMatch('multi-label classifier, and none is configured');
  } finally {
    proxy.close();
  }
});

test('after a failover to another server behind the same address, service continues, with one line about it and one about its end', async () => {
  const replica = await startRedis(join(rig.folder, 'replica'), ({ pid }) => watched.server(pid));
  const other = connectRedis(replica.url, 'worker', silentLog);
  const primaryPort = Number(new URL(rig.redisUrl).port);
  await other.replicaof('127.0.0.1', primaryPort);
  const proxy = new FaultyProxy(primaryPort);
  const REDIS_URL = `redis://127.0.0.1:${await proxy.start()}`;
  const key = await rig.key();
  const [{ url, app: gateway }, worker] = await Promise.all([
    rig.gateway({ REDIS_URL, LOG_LEVEL: 'info' }),
    rig.worker({ REDIS_URL, LOG_LEVEL: 'info', MODEL_PROCESSES: '1' }),
  ]);
  const predict = () => post(`${url}/predict`, key, { text: 'fine' });
  expect((await predict()).status).toBe(200);
  await rig.redis.wait(1, 5_000);

  // The old primary lives on as a replica: it answers reads, and refuses writes with READONLY.
  await other.replicaof('NO', 'ONE');
  await rig.redis.replicaof('127.0.0.1', replica.port);
  proxy.targetPort = replica.port;
  await until('requests are answered', async () => (await predict()).status === 200);
  const { job_id: id } = (await post(`${url}/analyze_batch`, key, { texts: ['fine', 'awful'] })).body;
  const headers = { 'X-API-Key': key };
  await until(
    'a job is done',
    async () => (await request(`${url}/jobs/${id}`, { headers })).body.status === 'completed',
  );
  for (const app of [gateway, worker]) {
    await until('its end is logged', () => app.output.includes('Redis is back after'));
    expect(app.output.match(/READONLY/g)?.length).toBeGreaterThan(0);
    expect(app.output.match(/"level":(40|50).*Redis cannot be used/g)).toHaveLength(1);
    expect(app.output.match(/Redis is back after [\d.]+ s/g)).toHaveLength(1);
  }
  other.disconnect();
  proxy.close();
  await stopRedis(replica.child);
});
