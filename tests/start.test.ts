import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { App, isRunning, post, request, root, temporary, until } from './harness.js';

/** Data folder of `scripts/start.mjs`, which `npm start` runs. */
let folder: string;
let started: App[];

beforeEach(() => {
  folder = mkdtempSync(join(temporary, 'sluice-start-'));
  started = [];
});
afterEach(async () => {
  for (const app of started) await app.stop();
  rmSync(folder, { recursive: true, force: true });
});

function start(env: Record<string, string> = {}): App {
  const app = new App(process.execPath, [join(root, 'scripts/start.mjs')], {
    DATA_DIR: folder,
    PORT: '0',
    ADMIN_PORT: '0',
    WORKER_ADMIN_PORT: '0',
    MODEL_PROCESSES: '1',
    // One model starts faster than all of models.json.
    MODEL: 'minilm-l6-sst2',
    ...env,
  });
  started.push(app);
  return app;
}

/** URL and key from the printed curl command. */
async function curl(app: App): Promise<{ url: string; key: string }> {
  await until('it is ready', () => app.output.includes("-d '{"), 20_000);
  const [, url = ''] = /curl -X POST (\S+)\/predict/.exec(app.output) ?? [];
  const [, key = ''] = /-H 'X-API-Key: ([^']+)'/.exec(app.output) ?? [];
  return { url, key };
}

interface Found {
  pid: number;
  command: string;
}

/** All processes of a folder: apps by their environment, Redis (which overwrites its environment) by its pid file. */
function processesOf(dataDir: string): Found[] {
  const redisPid = existsSync(join(dataDir, 'redis/redis.pid'))
    ? Number(readFileSync(join(dataDir, 'redis/redis.pid'), 'utf8'))
    : undefined;
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => isRunning(pid))
    .flatMap((pid) => {
      try {
        const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
        const environment = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
        return pid === redisPid || environment.includes(`DATA_DIR=${dataDir}`) ? [{ pid, command }] : [];
      } catch {
        return []; // It has ended in the meantime.
      }
    });
}

const find = (word: string) => processesOf(folder).find(({ command }) => command.includes(word));

function pidOf(word: string): number {
  const found = find(word);
  if (found === undefined) throw new Error(`No process of the folder matches ${word}`);
  return found.pid;
}

test('prints a working curl command, and keeps key, window and data over a restart', async () => {
  const first = start({ MODEL: '' });
  const { url, key } = await curl(first);
  expect(key).toMatch(/^sk_/);
  for (const line of [
    `  Playground     ${url}/`,
    `  API key        ${key}`,
    `  -d '{"text": "This product is amazing!"}'`,
    '  npm start -- worker',
  ])
    expect(first.output).toContain(`\n${line}`);
  const before = await post(`${url}/predict`, key, { text: 'This product is amazing!' });
  expect([before.status, before.body.sentiment, before.body.requests_remaining]).toEqual([
    200,
    'positive',
    9,
  ]);
  expect(statSync(join(folder, 'dev-key')).mode & 0o777).toBe(0o600);
  // The project's models.json has an embedding model too.
  const vector = await post(`${url}/models/all-minilm-l6-v2`, key, { inputs: 'fine' });
  expect([vector.status, vector.body.length]).toEqual([200, 384]);

  const twice = start();
  expect(await twice.exit()).toBe(1);
  expect(twice.output).toMatch(/already runs in this folder/);

  first.child.kill('SIGINT');
  expect(await first.exit()).toBe(0);
  await until('all processes have ended', () => processesOf(folder).length === 0);

  const redisUrl = /Redis runs at (\S+);/.exec(first.output)?.[1];
  const again = start();
  const second = await curl(again);
  expect(second.key).toBe(key);
  // Workers that were started beside it find its Redis again.
  expect(again.output).toContain(`Redis runs at ${redisUrl};`);
  const after = await post(`${second.url}/predict`, key, { text: 'This product is amazing!' });
  expect([after.status, after.body.requests_remaining]).toEqual([200, 7]);
});

test('registers a supplied development key, on an address that only this machine reaches', async () => {
  const app = start({ SLUICE_DEV_KEY: "it's-a-secret" });
  const { url } = await curl(app);
  // The key is quoted for the shell.
  expect(app.output).toContain("-H 'X-API-Key: it'\\''s-a-secret'");
  expect((await post(`${url}/predict`, "it's-a-secret", { text: 'fine' })).status).toBe(200);
  // Only this machine reaches it: 127.0.0.2 is another address of it.
  await expect(fetch(`${url.replace('localhost', '127.0.0.2')}/health`)).rejects.toThrow('fetch failed');
  expect(app.output).toContain(
    'Only this machine can reach Sluice. To serve other machines, set HOST=0.0.0.0.',
  );
  expect((await post(`${url}/predict`, 'wrong-key', { text: 'fine' })).body.detail).toBe('Invalid API key');
});

test('HOST opens the API to other machines', async () => {
  const app = start({ HOST: '0.0.0.0' });
  const { url } = await curl(app);
  expect((await fetch(`${url.replace('localhost', '127.0.0.2')}/health`)).status).toBe(200);
  expect(app.output).not.toContain('Only this machine');
});

test('a killed app is restarted, and its child processes are ended', async () => {
  const { url, key } = await curl(start());
  const [worker, model] = [pidOf('worker/bundle/main'), pidOf('model/process')];
  process.kill(model, 'SIGSTOP');
  process.kill(worker, 'SIGKILL');
  await until('the paused model process is gone', () => !isRunning(model), 2_000);
  await until(
    'another worker has started',
    () => ![undefined, worker].includes(find('worker/bundle/main')?.pid),
  );

  process.kill(pidOf('gateway/bundle/main'), 'SIGKILL');
  process.kill(pidOf('redis-server'), 'SIGKILL');
  await until(
    'another gateway listens',
    () => (started[0]?.output.match(/Gateway listening/g)?.length ?? 0) >= 2,
  );
  // PORT is 0 here, and the new gateway takes the port of the first one.
  await until(
    'requests are served again',
    async () => (await post(`${url}/predict`, key, { text: 'fine' }).catch(() => undefined))?.status === 200,
  );
});

test('after SIGKILL no process is left, neither Redis nor a paused model process', async () => {
  const app = start();
  await curl(app);
  expect(
    processesOf(folder)
      .map(
        ({ command }) =>
          /(start|watcher|redis-server|gateway|worker\/bundle\/main|model\/process)/.exec(command)?.[1],
      )
      .sort(),
  ).toEqual(['gateway', 'model/process', 'redis-server', 'start', 'watcher', 'worker/bundle/main']);
  process.kill(pidOf('model/process'), 'SIGSTOP');
  app.child.kill('SIGKILL');
  await until('no process is left', () => processesOf(folder).length === 0, 15_000);
});

test('a wrong setting or a port in use stops the start with one line', async () => {
  const { url } = await curl(start());
  const other = join(folder, 'other');
  const taken = start({ DATA_DIR: other, PORT: new URL(url).port });
  expect(await taken.exit()).toBe(1);
  expect(taken.output).toMatch(/PORT: \d+ is in use; set PORT to another one/);
  const wrong = start({ DATA_DIR: other, STALL_SECONDS: 'soon' });
  expect(await wrong.exit()).toBe(1);
  expect(wrong.output).toMatch(/STALL_SECONDS: /);
  await until('no process is left', () => processesOf(other).length === 0);
});

test('another worker can be started next to it, and a lost development key is replaced', async () => {
  const app = start();
  const { url } = await curl(app);
  const more = new App(process.execPath, [join(root, 'scripts/start.mjs'), 'worker'], {
    DATA_DIR: folder,
    ADMIN_PORT: '0',
    WORKER_ADMIN_PORT: '0',
    MODEL_PROCESSES: '1',
  });
  started.push(more);
  await until('two workers are ready', async () => (await request(`${url}/ready`)).body.workers === 2);
  await more.stop();
  await until('one worker is left', async () => (await request(`${url}/ready`)).body.workers === 1);
  await app.stop('SIGINT');
  rmSync(join(folder, 'dev-key'));
  const again = await curl(start());
  expect((await post(`${again.url}/predict`, again.key, { text: 'fine' })).status).toBe(200);
});

test.each(['SIGINT', 'SIGKILL'] as const)(
  '%s while Redis starts leaves no process, and the next start works',
  async (signal) => {
    const app = start();
    await until('Redis has started', () => existsSync(join(folder, 'redis/redis.pid')), 20_000);
    app.child.kill(signal);
    await app.exit();
    await until('no process is left', () => processesOf(folder).length === 0, 15_000);
    await curl(start());
  },
);

test('of several starts that find the lock of a dead process, exactly one succeeds', async () => {
  writeFileSync(join(folder, 'start.pid'), '999999999');
  const all = Array.from({ length: 4 }, () => start());
  await Promise.any(all.map((app) => curl(app)));
  await until('the others have ended', () => all.filter(({ child }) => child.exitCode !== null).length === 3);
  expect(all.map(({ child }) => child.exitCode).sort()).toEqual([1, 1, 1, null]);
});

test('npm run sluice finds the Redis of a running start, and files where the user is', async () => {
  const { key } = await curl(start());
  const env = { DATA_DIR: folder, npm_lifecycle_event: 'sluice', INIT_CWD: folder };
  const sluice = (...args: string[]) =>
    new App(process.execPath, [join(root, 'scripts/sluice.mjs'), ...args], env);
  const list = sluice('keys', 'list', '--json');
  expect(await list.exit()).toBe(0);
  expect(JSON.parse(list.output)).toMatchObject([{ key_id: key.split('_')[1], status: 'live' }]);
  expect(await sluice('keys', 'export', '--output', 'keys.json').exit()).toBe(0);
  expect(readFileSync(join(folder, 'keys.json'), 'utf8')).toContain(key.split('_')[1]);
});

test('a gateway alone starts in a new folder, and an empty token file is replaced', async () => {
  const { url } = await curl(start());
  const { redisUrl } = JSON.parse(readFileSync(join(folder, 'runtime.json'), 'utf8'));
  const other = join(folder, 'not/there/yet');
  const more = new App(process.execPath, [join(root, 'scripts/start.mjs'), 'gateway'], {
    DATA_DIR: other,
    REDIS_URL: redisUrl,
    PORT: '0',
    ADMIN_PORT: '0',
  });
  started.push(more);
  await until('it is ready', () => more.output.includes('The gateway is ready'), 20_000);
  expect(statSync(join(other, 'admin-token')).mode & 0o777).toBe(0o600);
  expect((await request(`${url}/health`)).status).toBe(200);
  // One that is restarted keeps its ports.
  const listening = () => [...more.output.matchAll(/"pid":(\d+).*"port":(\d+).*Gateway listening/g)];
  process.kill(Number(listening()[0]?.[1]), 'SIGKILL');
  await until('it is restarted', () => listening().length === 2);
  expect(listening()[1]?.[2]).toBe(listening()[0]?.[2]);
  await started[0]?.stop();
  await more.stop();

  writeFileSync(join(folder, 'admin-token'), '');
  const again = start();
  await curl(again);
  const adminUrl = /(http:\S+)\/admin\/keys/.exec(again.output)?.[1];
  const token = readFileSync(join(folder, 'admin-token'), 'utf8').trim();
  expect(token).toMatch(/^[\w-]{32}$/);
  const listed = await request(`${adminUrl}/admin/keys`, { headers: { Authorization: `Bearer ${token}` } });
  expect(listed.status).toBe(200);
});
