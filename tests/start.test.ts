import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { App, cliMain, isRunning, post, request, root, temporary, until } from './harness.js';

/** `scripts/start.mjs` with a folder of its own, as `npm start` runs it. */
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
    ...env,
  });
  started.push(app);
  return app;
}

/** The curl that it prints, taken apart. */
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

/** Every process started for a folder: apps by their environment, Redis (which overwrites its own) by its pid file. */
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
        return []; // It ended while we looked.
      }
    });
}

const find = (word: string) => processesOf(folder).find(({ command }) => command.includes(word));

function pidOf(word: string): number {
  const found = find(word);
  if (found === undefined) throw new Error(`No process of the folder is ${word}`);
  return found.pid;
}

test('prints a curl that works as pasted, and keeps key, window and data over a restart', async () => {
  const first = start();
  const { url, key } = await curl(first);
  expect(key).toMatch(/^sk_/);
  expect(first.output.trimEnd().endsWith(`-d '{"text": "This product is amazing!"}'`)).toBe(true);
  const before = await post(`${url}/predict`, key, { text: 'This product is amazing!' });
  expect([before.status, before.body.sentiment, before.body.requests_remaining]).toEqual([
    200,
    'positive',
    9,
  ]);
  expect(statSync(join(folder, 'dev-key')).mode & 0o777).toBe(0o600);

  const twice = start();
  expect(await twice.exit()).toBe(1);
  expect(twice.output).toMatch(/runs in this folder already/);

  first.child.kill('SIGINT');
  expect(await first.exit()).toBe(0);
  await until('all of it has ended', () => processesOf(folder).length === 0);

  const second = await curl(start());
  expect(second.key).toBe(key);
  const after = await post(`${second.url}/predict`, key, { text: 'This product is amazing!' });
  expect([after.status, after.body.requests_remaining]).toEqual([200, 8]);
});

test('takes the development key that it is given', async () => {
  const app = start({ SLUICE_DEV_KEY: "it's-a-secret" });
  const { url } = await curl(app);
  // Quoted for the shell.
  expect(app.output).toContain("-H 'X-API-Key: it'\\''s-a-secret'");
  expect((await post(`${url}/predict`, "it's-a-secret", { text: 'fine' })).status).toBe(200);
  expect((await post(`${url}/predict`, 'wrong-key', { text: 'fine' })).body.detail).toBe('Invalid API key');
});

test('an app that is killed is started again, and nothing of it is left', async () => {
  const { url, key } = await curl(start());
  const [worker, model] = [pidOf('worker/dist/main'), pidOf('model/process')];
  process.kill(model, 'SIGSTOP');
  process.kill(worker, 'SIGKILL');
  await until('the stopped model process is gone', () => !isRunning(model), 2_000);
  await until('another worker is there', () => ![undefined, worker].includes(find('worker/dist/main')?.pid));

  process.kill(pidOf('gateway/dist/main'), 'SIGKILL');
  process.kill(pidOf('redis-server'), 'SIGKILL');
  // PORT is 0 here, so another gateway has another port.
  await until(
    'another gateway listens',
    () => (started[0]?.output.match(/The gateway listens/g)?.length ?? 0) >= 2,
  );
  const ports = [...(started[0]?.output.matchAll(/The gateway listens \{"port":(\d+)/g) ?? [])];
  const again = url.replace(/\d+$/, ports.at(-1)?.[1] ?? '');
  await until(
    'it serves again',
    async () =>
      (await post(`${again}/predict`, key, { text: 'fine' }).catch(() => undefined))?.status === 200,
  );
});

test('killed hard, it leaves no process behind: not Redis, not a stopped model process', async () => {
  const app = start();
  await curl(app);
  expect(
    processesOf(folder)
      .map(
        ({ command }) =>
          /(start|watcher|redis-server|gateway|worker\/dist\/main|model\/process)/.exec(command)?.[1],
      )
      .sort(),
  ).toEqual(['gateway', 'model/process', 'redis-server', 'start', 'watcher', 'worker/dist/main']);
  process.kill(pidOf('model/process'), 'SIGSTOP');
  app.child.kill('SIGKILL');
  await until('nothing is left', () => processesOf(folder).length === 0, 15_000);
});

test('a wrong setting or a port in use ends it with a line that says so', async () => {
  const { url } = await curl(start());
  const other = join(folder, 'other');
  const taken = start({ DATA_DIR: other, PORT: new URL(url).port });
  expect(await taken.exit()).toBe(1);
  expect(taken.output).toMatch(/PORT: \d+ is in use; set PORT to another/);
  const wrong = start({ DATA_DIR: other, STALL_SECONDS: 'soon' });
  expect(await wrong.exit()).toBe(1);
  expect(wrong.output).toMatch(/STALL_SECONDS: /);
  await until('nothing is left', () => processesOf(other).length === 0);
});

test('one worker more can be started beside it, and a lost development key is replaced', async () => {
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
  await until('one is left', async () => (await request(`${url}/ready`)).body.workers === 1);
  await app.stop('SIGINT');
  rmSync(join(folder, 'dev-key'));
  const again = await curl(start());
  expect((await post(`${again.url}/predict`, again.key, { text: 'fine' })).status).toBe(200);
});

test.each(['SIGINT', 'SIGKILL'] as const)(
  '%s while Redis starts leaves nothing, and the next start works',
  async (signal) => {
    const app = start();
    await until('Redis is there', () => existsSync(join(folder, 'redis/redis.pid')), 20_000);
    app.child.kill(signal);
    await app.exit();
    await until('nothing is left', () => processesOf(folder).length === 0, 15_000);
    await curl(start());
  },
);

test('of several that find the lock of a dead one, one starts', async () => {
  writeFileSync(join(folder, 'start.pid'), '999999999');
  const all = Array.from({ length: 4 }, () => start());
  await Promise.any(all.map((app) => curl(app)));
  await until('the others have ended', () => all.filter(({ child }) => child.exitCode !== null).length === 3);
  expect(all.map(({ child }) => child.exitCode).sort()).toEqual([1, 1, 1, null]);
});

test('the CLI finds the Redis of a running start', async () => {
  const { key } = await curl(start());
  const list = new App(process.execPath, [cliMain, 'keys', 'list', '--json'], { DATA_DIR: folder });
  expect(await list.exit()).toBe(0);
  expect(JSON.parse(list.output)).toMatchObject([{ key_id: key.split('_')[1], status: 'live' }]);
});

test('a gateway alone starts in a fresh folder, and a token that was lost half-way is made again', async () => {
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
