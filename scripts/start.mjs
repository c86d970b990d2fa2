// `npm start`: sets up what is missing, starts Redis, the gateway and a worker, and keeps them running until Ctrl-C.
// `npm start -- worker` (or gateway) starts and keeps one more of these.
// Node built-ins only: this runs before anything is installed.
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { isRunning, startRedis, startWatcher, stopRedis } from './redis.mjs';
import { NODE_FLAGS, prepare, root, SetupError, say } from './setup.mjs';

/** An app whose configuration is wrong ends with this status (EX_CONFIG): starting it again is no use. */
const EXIT_CONFIG = 78;
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 30_000;
/** An app that was up for so long has not failed at its start. */
const STEADY_MS = 30_000;
const DRAIN_SLACK_MS = 5_000;
/** A guard that is older is nobody's. */
const GUARD_MS = 5_000;

const APPS = { gateway: 'apps/gateway/dist/main.js', worker: 'apps/worker/dist/main.js' };

if (existsSync(join(root, '.env'))) process.loadEnvFile(join(root, '.env'));
const dataDir = resolve(root, process.env.DATA_DIR || '.sluice');
const lockFile = join(dataDir, 'start.pid');
const runtimeFile = join(dataDir, 'runtime.json');
const tokenFile = join(dataDir, 'admin-token');

/** Running apps by name. */
const running = new Map();
let watcher;
let redis;
let locked = false;
let stopping = false;

/**
 * One `npm start` a folder: two would share its Redis. The lock file holds the process that has it and is never there
 * half-written; what a dead process left is taken away under a guard, so that nobody's fresh lock is.
 */
async function lock() {
  try {
    mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw new SetupError(`DATA_DIR: ${error.message}`);
  }
  const mine = `${lockFile}.${process.pid}`;
  const guard = `${lockFile}.guard`;
  writeFileSync(mine, String(process.pid));
  try {
    while (!tryTo(() => linkSync(mine, lockFile))) {
      if (tryTo(() => mkdirSync(guard))) {
        const holder = existsSync(lockFile) ? Number(readFileSync(lockFile, 'utf8')) : 0;
        const held = holder !== process.pid && isRunning(holder, 'start.mjs');
        if (!held) rmSync(lockFile, { force: true });
        rmdirSync(guard);
        if (held) {
          throw new SetupError(`Sluice runs in this folder already (process ${holder}); stop that one first`);
        }
      } else if (Date.now() - statSync(guard, { throwIfNoEntry: false })?.mtimeMs > GUARD_MS) {
        tryTo(() => rmdirSync(guard)); // Its owner died within these few lines.
      } else await delay(50);
    }
    locked = true;
  } finally {
    rmSync(mine, { force: true });
  }
}

/** Whether something could be done that fails when it is done, or undone, already. */
function tryTo(action) {
  try {
    action();
    return true;
  } catch (error) {
    if (['EEXIST', 'ENOENT'].includes(error.code)) return false;
    throw error;
  }
}

function unlock() {
  if (!locked) return;
  rmSync(runtimeFile, { force: true });
  rmSync(lockFile, { force: true });
}

/** Starts a Redis, and starts it again, at the same port, whenever it dies. */
async function keepRedis(port) {
  const folder = join(dataDir, 'redis');
  const { url, ...started } = await startRedis(
    folder,
    (child) => {
      redis = child;
      watcher.server(child.pid);
      child.once('exit', () => watcher.forget(child.pid));
    },
    port,
  );
  process.env.REDIS_URL = url;
  say(`Redis runs at ${url}; its data stands in ${folder}`);
  const restart = async () => {
    if (stopping) return;
    say('Redis ended; starting it again');
    await delay(FIRST_RETRY_MS);
    if (!stopping) await keepRedis(started.port);
  };
  started.child.once('exit', () => restart().catch((error) => fatal(error.message)));
}

/**
 * Starts an app, and starts it again with backoff whenever it dies. Resolves with its facts once it is ready.
 * @param onReady is told them each time
 */
function keepApp(name, onReady = () => {}) {
  const secrets = name === 'gateway' ? { ADMIN_TOKEN: adminToken() } : {};
  return new Promise((ready) => {
    let failures = 0;
    const start = () => {
      if (stopping) return;
      const startedMs = Date.now();
      // Leads a group of its own: its children can be killed with it, and Ctrl-C reaches it by us alone.
      const child = spawn(process.execPath, [...NODE_FLAGS, join(root, APPS[name])], {
        cwd: root,
        detached: true,
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
        env: {
          ...process.env,
          LOG_FORMAT: process.env.LOG_FORMAT || 'pretty',
          DATA_DIR: dataDir,
          ...secrets,
        },
      });
      running.set(name, child);
      watcher.group(child.pid);
      child.on('message', (message) => {
        if (message.type !== 'ready') return;
        onReady(message);
        ready(message);
      });
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
        setTimeout(start, waitMs);
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

/** Where the development key is kept. */
const keyFile = () => join(dataDir, process.env.SLUICE_DEV_KEY ? 'dev-key.supplied' : 'dev-key');

/** The development key: SLUICE_DEV_KEY, else one that is made once and kept. */
function developmentKey() {
  const supplied = process.env.SLUICE_DEV_KEY;
  const file = keyFile();
  if (supplied) writeFileSync(file, `${supplied}\n`, { mode: 0o600 });
  // The name counts where the file holds no key yet. A new one then, for nobody has the secret of an old one.
  const name = `development-${randomBytes(4).toString('hex')}`;
  const { status, stdout } = spawnSync(
    process.execPath,
    [join(root, 'apps/cli/dist/main.js'), 'keys', 'ensure', '--json', '--name', name, '--key-file', file],
    { stdio: ['ignore', 'pipe', 'inherit'], encoding: 'utf8', env: { ...process.env, DATA_DIR: dataDir } },
  );
  if (status !== 0) throw new SetupError('There is no development key; see above');
  return JSON.parse(stdout).key;
}

/** ADMIN_TOKEN, else one that is made once and kept: never half-written, and of several that make one the first wins. */
function adminToken() {
  if (process.env.ADMIN_TOKEN) return process.env.ADMIN_TOKEN;
  const kept = () => existsSync(tokenFile) && readFileSync(tokenFile, 'utf8').trim();
  const fresh = `${tokenFile}.${process.pid}`;
  try {
    mkdirSync(dataDir, { recursive: true, mode: 0o700 });
    if (kept()) return kept();
    writeFileSync(fresh, `${randomBytes(24).toString('base64url')}\n`, { mode: 0o600 });
    // Somebody's empty file gives way.
    if (existsSync(tokenFile)) renameSync(fresh, tokenFile);
    else tryTo(() => linkSync(fresh, tokenFile));
    return kept();
  } catch (error) {
    throw new SetupError(`DATA_DIR: ${error.message}`);
  } finally {
    rmSync(fresh, { force: true });
  }
}

/** Tells the CLI where Sluice runs. */
function writeRuntime(url) {
  const runtime = { redisUrl: process.env.REDIS_URL, keyFile: keyFile(), ...(url ? { url } : {}) };
  writeFileSync(runtimeFile, JSON.stringify(runtime), { mode: 0o600 });
}

/** A wrong setting ends the start before it begins. */
async function checkSettings() {
  const { readSettings, SettingsError } = await import('../packages/shared/dist/index.js');
  try {
    readSettings(process.env);
  } catch (error) {
    throw error instanceof SettingsError ? new SetupError(error.message) : error;
  }
}

function fatal(message) {
  if (!stopping) console.error(`✗ ${message}`);
  void stop(1);
}

/** How long the slowest drain may take. */
const drainMs = () => Number(process.env.REQUEST_TIMEOUT_SECONDS || 5) * 1000 + DRAIN_SLACK_MS;

/** Drains and ends everything: the gateway first, for it waits for the worker; Redis last. */
async function stop(code) {
  if (stopping) return;
  stopping = true;
  for (const name of Object.keys(APPS)) {
    const child = running.get(name);
    if (child === undefined) continue;
    const gone = once(child, 'exit');
    child.kill('SIGTERM');
    const late = setTimeout(() => killGroup(child.pid), drainMs());
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

/** The URL of a port here that is bound to an address. */
function urlOf(protocol, address, port) {
  const host = ['::', '0.0.0.0'].includes(address) ? 'localhost' : address;
  return `${protocol}://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** Whether the gateway answers, by its admin port, and sees a worker. */
async function serves(url) {
  const response = await fetch(`${url}/ready`).catch(() => undefined);
  return response?.status === 200 && (await response.json()).workers > 0;
}

const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** `npm start -- worker`: one app more, with the Redis of REDIS_URL or of the `npm start` in this folder. */
async function startOne(name) {
  if (!(name in APPS)) throw new SetupError(`There is no app "${name}": ${Object.keys(APPS).join(' or ')}`);
  if (!process.env.REDIS_URL && existsSync(runtimeFile)) {
    process.env.REDIS_URL = JSON.parse(readFileSync(runtimeFile, 'utf8')).redisUrl;
  }
  if (!process.env.REDIS_URL) throw new SetupError('Set REDIS_URL, or run npm start in this folder first');
  prepare();
  await checkSettings();
  watcher = startWatcher(drainMs());
  await keepApp(name);
  if (!stopping) say(`The ${name} is ready. Ctrl-C drains and ends it`);
}

async function startAll() {
  await lock();
  prepare();
  await checkSettings();
  watcher = startWatcher(drainMs());
  if (process.env.REDIS_URL) say('Using the Redis of REDIS_URL');
  else await keepRedis();
  if (stopping) return;
  writeRuntime();
  let url = '';
  let adminUrl = '';
  const ready = [
    keepApp('gateway', ({ port, adminPort }) => {
      url = urlOf(process.env.TLS_CERT ? 'https' : 'http', process.env.HOST || '::', port);
      adminUrl = urlOf('http', process.env.ADMIN_HOST || '127.0.0.1', adminPort);
      writeRuntime(url);
    }),
    keepApp('worker'),
  ];
  const key = developmentKey();
  await Promise.all(ready);
  while (!(await serves(adminUrl))) {
    if (stopping) return;
    await delay(100);
  }
  console.log(`
Sluice is ready. Ctrl-C drains and ends it. The reference is at ${url}/docs
Keys are managed by npm run sluice -- keys, or at ${adminUrl}/admin/keys with the token in ${process.env.ADMIN_TOKEN ? 'ADMIN_TOKEN' : tokenFile}

curl -X POST ${url}/predict \\
  -H ${quote(`X-API-Key: ${key}`)} \\
  -H 'Content-Type: application/json' \\
  -d '{"text": "This product is amazing!"}'
`);
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => onSignal(signal));
const [, , app] = process.argv;
try {
  await (app === undefined ? startAll() : startOne(app));
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  fatal(error.message);
}
