// `npm start`: sets up what is missing, starts Redis, the gateway and a worker, and keeps them running until Ctrl-C.
// Node built-ins only: this runs before anything is installed.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { isRunning, startRedis, startWatcher, stopRedis } from './redis.mjs';
import { prepare, root, SetupError, say } from './setup.mjs';

/** An app whose configuration is wrong ends with this status (EX_CONFIG): starting it again is no use. */
const EXIT_CONFIG = 78;
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 30_000;
/** An app that was up for so long has not failed at its start. */
const STEADY_MS = 30_000;
const DRAIN_SLACK_MS = 5_000;

const APPS = { gateway: 'apps/gateway/dist/main.js', worker: 'apps/worker/dist/main.js' };

if (existsSync(join(root, '.env'))) process.loadEnvFile(join(root, '.env'));
const dataDir = resolve(root, process.env.DATA_DIR || '.sluice');
const lockFile = join(dataDir, 'start.pid');
const runtimeFile = join(dataDir, 'runtime.json');

/** Running apps by name. */
const running = new Map();
let watcher;
let redis;
let locked = false;
let stopping = false;

/** One `npm start` a folder: two would share its Redis. */
function lock() {
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  try {
    writeFileSync(lockFile, String(process.pid), { flag: 'wx' });
    locked = true;
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
    const holder = Number(readFileSync(lockFile, 'utf8'));
    if (holder !== process.pid && isRunning(holder, 'start.mjs')) {
      throw new SetupError(`Sluice runs in this folder already (process ${holder}); stop that one first`);
    }
    rmSync(lockFile, { force: true });
    lock();
  }
}

function unlock() {
  if (!locked) return;
  rmSync(runtimeFile, { force: true });
  rmSync(lockFile, { force: true });
}

async function keepRedis() {
  const folder = join(dataDir, 'redis');
  redis = await startRedis(folder);
  process.env.REDIS_URL = redis.url;
  say(`Redis runs at ${redis.url}; its data stands in ${folder}`);
  const watch = () => {
    watcher.server(redis.child.pid);
    redis.child.once('exit', async (code, signal) => {
      watcher.forget(redis.child.pid);
      if (stopping) return;
      say(`Redis ended (${signal ?? code}); starting it again`);
      await delay(FIRST_RETRY_MS);
      if (stopping) return;
      redis = await startRedis(folder, redis.port).catch((error) => fatal(error.message));
      if (redis) watch();
    });
  };
  watch();
}

/** Starts an app, and starts it again with backoff whenever it dies. Resolves with its facts once it is ready. */
function keepApp(name) {
  return new Promise((ready) => {
    let failures = 0;
    const start = () => {
      if (stopping) return;
      const startedMs = Date.now();
      // Leads a group of its own: its children can be killed with it, and Ctrl-C reaches it by us alone.
      const child = spawn(process.execPath, [join(root, APPS[name])], {
        cwd: root,
        detached: true,
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
        env: { LOG_FORMAT: 'pretty', ...process.env, DATA_DIR: dataDir },
      });
      running.set(name, child);
      watcher.group(child.pid);
      child.on('message', (message) => message.type === 'ready' && ready(message));
      child.once('exit', (code, signal) => {
        killGroup(child.pid);
        watcher.forget(child.pid);
        running.delete(name);
        if (stopping) return;
        if (code === EXIT_CONFIG) {
          fatal(`The ${name} cannot run with this configuration`);
          return;
        }
        failures = Date.now() - startedMs > STEADY_MS ? 0 : failures + 1;
        const waitMs = Math.min(FIRST_RETRY_MS * 2 ** Math.max(0, failures - 1), LAST_RETRY_MS);
        say(`The ${name} ended (${signal ?? `exit ${code}`}); starting it again in ${waitMs / 1000} s`);
        setTimeout(start, waitMs).unref();
      });
    };
    start();
  });
}

/** Ends what an app may have left: a stopped model process hears nothing but this. */
function killGroup(pid) {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // Nothing was left.
  }
}

/** The development key: SLUICE_DEV_KEY, else one that is made once and kept. */
function developmentKey() {
  const { status, stdout } = spawnSync(
    process.execPath,
    [
      join(root, 'apps/cli/dist/main.js'),
      ...['keys', 'ensure', '--json', '--name', `development on ${hostname()} in ${root}`.slice(0, 200)],
      ...['--key-file', join(dataDir, 'dev-key')],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'], encoding: 'utf8', env: { ...process.env, DATA_DIR: dataDir } },
  );
  if (status !== 0) throw new SetupError('There is no development key; see above');
  return JSON.parse(stdout).key;
}

function fatal(message) {
  if (!stopping) console.error(`✗ ${message}`);
  void stop(1);
}

/** Drains and ends everything: the gateway first, for it waits for the worker; Redis last. */
async function stop(code) {
  if (stopping) return;
  stopping = true;
  const limitMs = Number(process.env.REQUEST_TIMEOUT_SECONDS || 5) * 1000 + DRAIN_SLACK_MS;
  for (const name of Object.keys(APPS)) {
    const child = running.get(name);
    if (child === undefined) continue;
    const gone = once(child, 'exit');
    child.kill('SIGTERM');
    const late = setTimeout(() => killGroup(child.pid), limitMs);
    await gone;
    clearTimeout(late);
  }
  if (redis) await stopRedis(redis);
  unlock();
  process.exit(code);
}

/** The first signal drains; a second one does not wait. */
function onSignal(signal) {
  if (!stopping) {
    say(`${signal}: draining; once more to end at once`);
    void stop(0);
    return;
  }
  for (const { pid } of running.values()) killGroup(pid);
}

/** Whether the gateway answers and sees a worker. */
async function serves(url) {
  const response = await fetch(`${url}/ready`).catch(() => undefined);
  return response?.status === 200 && (await response.json()).workers > 0;
}

const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

async function main() {
  try {
    lock();
    prepare();
    watcher = startWatcher();
    if (process.env.REDIS_URL) say('Using the Redis of REDIS_URL');
    else await keepRedis();
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => onSignal(signal));
    const ready = Promise.all([keepApp('gateway'), keepApp('worker')]);
    const key = developmentKey();
    writeFileSync(runtimeFile, JSON.stringify({ redisUrl: process.env.REDIS_URL }), { mode: 0o600 });
    const [{ port }] = await ready;
    if (stopping) return;
    const url = `http://localhost:${port}`;
    while (!(await serves(url))) {
      if (stopping) return;
      await delay(100);
    }
    writeFileSync(runtimeFile, JSON.stringify({ url, redisUrl: process.env.REDIS_URL }), { mode: 0o600 });
    console.log(`
Sluice is ready. Ctrl-C drains and ends it. The reference is at ${url}/docs

curl -X POST ${url}/predict \\
  -H ${quote(`X-API-Key: ${key}`)} \\
  -H 'Content-Type: application/json' \\
  -d '{"text": "This product is amazing!"}'
`);
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    fatal(error.message);
  }
}

await main();
