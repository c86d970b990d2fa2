// `npm start`: installs what is missing, starts Redis, the gateway and a worker, and keeps them running until Ctrl-C.
// `npm start -- worker` (or gateway) starts another one and keeps it running.
// Node built-ins only: this runs before anything is installed.
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { lock, tryTo } from './lock.mjs';
import { isFree, startRedis, startWatcher, stopRedis } from './redis.mjs';
import { appFile, home, NODE_FLAGS, prepare, root, SetupError, say } from './setup.mjs';

/** Exit status of an app with a wrong configuration (EX_CONFIG): a restart cannot help. */
const EXIT_CONFIG = 78;
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 30_000;
/** An app that ran for this long did not fail at its start. */
const STEADY_MS = 30_000;
/** An app that has not exited this long after DRAIN_SECONDS is killed. */
const DRAIN_SLACK_MS = 2_000;
const APPS = ['gateway', 'worker'];
/** What the command line of a start contains; the kernel separates arguments with NUL. */
const START_COMMANDS = [
  'start.mjs',
  ...['sluice', 'sluice.mjs', 'main.js'].flatMap((file) => [`${file}\0start`, `${file} start`]),
];

if (existsSync(join(home, '.env'))) process.loadEnvFile(join(home, '.env'));
const dataDir = resolve(home, process.env.DATA_DIR || '.sluice');
/** The development key protects little, so by default only this machine can reach the gateway. */
const host = process.env.HOST || '127.0.0.1';
const lockFile = join(dataDir, 'start.pid');
const runtimeFile = join(dataDir, 'runtime.json');
const portFile = join(dataDir, 'redis.port');
const tokenFile = join(dataDir, 'admin-token');

/** Running apps by name. */
const running = new Map();
let watcher;
let redis;
/** File with the development key, once it is registered. */
let keyFile;
let locked = false;
let stopping = false;

function unlock() {
  if (!locked) return;
  rmSync(runtimeFile, { force: true });
  rmSync(lockFile, { force: true });
}

/**
 * The port of the Redis of an earlier run, if it is free, so that workers that were started beside that run find the
 * Redis of this one.
 */
async function earlierPort() {
  const port = Number(existsSync(portFile) ? readFileSync(portFile, 'utf8') : 0);
  return port > 0 && (await isFree(port)) ? port : undefined;
}

/** Starts Redis, and restarts it on the same port whenever it dies. */
async function keepRedis(port) {
  const folder = join(dataDir, 'redis');
  const { url, socketUrl, ...started } = await startRedis(
    folder,
    (child) => {
      redis = child;
      watcher.server(child.pid);
      child.once('exit', () => watcher.forget(child.pid));
    },
    port,
  );
  process.env.REDIS_URL = socketUrl;
  writeFileSync(portFile, String(started.port));
  say(`Redis runs at ${url}; its data is in ${folder}`);
  const restart = async () => {
    if (stopping) return;
    say('Redis exited; restarting it');
    await delay(FIRST_RETRY_MS);
    if (!stopping) await keepRedis(started.port);
  };
  started.child.once('exit', () => restart().catch((error) => fatal(error.message)));
}

/**
 * Starts an app, and restarts it with backoff whenever it dies. Resolves to its facts when it is ready.
 * @param onReady receives the facts after each start
 */
function keepApp(name, onReady = () => {}) {
  const secrets = name === 'gateway' ? { ADMIN_TOKEN: adminToken() } : {};
  return new Promise((ready) => {
    let failures = 0;
    const start = () => {
      if (stopping) return;
      const startedMs = Date.now();
      // In its own process group, so that its children can be killed with it, and Ctrl-C reaches it only through us.
      const child = spawn(process.execPath, [...NODE_FLAGS[name], appFile(name)], {
        cwd: home,
        detached: true,
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
        env: {
          ...process.env,
          // Pretty lines for people in a terminal, JSON for programs.
          LOG_FORMAT: process.env.LOG_FORMAT || (process.stdout.isTTY ? 'pretty' : 'json'),
          DATA_DIR: dataDir,
          HOST: host,
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
        say(`The ${name} exited (${signal ?? `exit ${code}`}); restarting it in ${waitMs / 1000} s`);
        setTimeout(start, waitMs);
      });
    };
    start();
  });
}

/** Kills the rest of an app's process group. A hanging model process reacts to nothing else. */
function killGroup(pid) {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // The group is already gone.
  }
}

/**
 * The development key: SLUICE_DEV_KEY, or a key that is generated once and stored. Sets `keyFile` to the path of its file.
 */
function developmentKey() {
  const { status, stdout } = spawnSync(process.execPath, [appFile('cli'), 'keys', 'development', '--json'], {
    stdio: ['ignore', 'pipe', 'inherit'],
    encoding: 'utf8',
    env: { ...process.env, DATA_DIR: dataDir },
  });
  if (status !== 0) throw new SetupError('Could not register the development key; see above');
  const { key, key_file: file } = JSON.parse(stdout);
  keyFile = file;
  return key;
}

/**
 * ADMIN_TOKEN, or a token that is generated once and stored. The file is never incomplete. If several processes generate
 * one, the first wins.
 */
function adminToken() {
  if (process.env.ADMIN_TOKEN) return process.env.ADMIN_TOKEN;
  const stored = () => existsSync(tokenFile) && readFileSync(tokenFile, 'utf8').trim();
  const temporary = `${tokenFile}.${process.pid}`;
  try {
    mkdirSync(dataDir, { recursive: true, mode: 0o700 });
    if (stored()) return stored();
    writeFileSync(temporary, `${randomBytes(24).toString('base64url')}\n`, { mode: 0o600 });
    // An empty file is replaced.
    if (existsSync(tokenFile)) renameSync(temporary, tokenFile);
    else tryTo(() => linkSync(temporary, tokenFile));
    return stored();
  } catch (error) {
    throw new SetupError(`DATA_DIR: ${error.message}`);
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** Writes where Sluice runs, for the CLI. */
function writeRuntime(url, adminUrl) {
  const runtime = {
    redisUrl: process.env.REDIS_URL,
    ...(keyFile ? { keyFile } : {}),
    ...(url ? { url } : {}),
    ...(adminUrl ? { adminUrl } : {}),
  };
  writeFileSync(runtimeFile, JSON.stringify(runtime), { mode: 0o600 });
}

/** Reads the settings; stops the start if one is wrong. */
async function checkSettings() {
  const { readSettings, SettingsError } = await import('@sluice/shared');
  try {
    const settings = readSettings(process.env);
    drainMs = settings.DRAIN_SECONDS * 1000 + DRAIN_SLACK_MS;
    return settings;
  } catch (error) {
    throw error instanceof SettingsError ? new SetupError(error.message) : error;
  }
}

function fatal(message) {
  if (!stopping) console.error(`✗ ${message}`);
  void stop(1);
}

/** The longest time that the drain of an app may take; known when the settings have been read. */
let drainMs = DRAIN_SLACK_MS;

/** Drains and ends everything: the gateway first, because it needs the worker; Redis last. */
async function stop(code) {
  if (stopping) return;
  stopping = true;
  for (const name of APPS) {
    const child = running.get(name);
    if (child === undefined) continue;
    const gone = once(child, 'exit');
    child.kill('SIGTERM');
    const late = setTimeout(() => killGroup(child.pid), drainMs);
    await gone;
    clearTimeout(late);
  }
  if (redis) await stopRedis(redis);
  unlock();
  process.exit(code);
}

/** The first signal drains; a second one ends the apps at once. */
function onSignal(signal) {
  if (!stopping) {
    const hasWork = running.size > 0;
    say(hasWork ? `${signal}: finishing the requests in flight; send it again to stop at once` : signal);
    void stop(0);
    return;
  }
  for (const { pid } of running.values()) killGroup(pid);
}

/** The URL of a port on this machine that is bound to an address. */
function urlOf(protocol, address, port) {
  const host = ['::', '0.0.0.0'].includes(address) ? 'localhost' : address;
  return `${protocol}://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** Whether the gateway is ready and sees a worker, as its admin port says. */
async function serves(url) {
  const response = await fetch(`${url}/ready`).catch(() => undefined);
  return response?.status === 200 && (await response.json()).workers > 0;
}

const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** A gateway that is restarted takes the same ports, also if they were chosen for it. */
function keepPorts({ port, adminPort }) {
  if (port === undefined) return;
  process.env.PORT = String(port);
  process.env.ADMIN_PORT = String(adminPort);
}

/** `npm start -- worker`: starts another app, with the Redis of REDIS_URL or of the `npm start` in this folder. */
async function startOne(name) {
  if (!APPS.includes(name)) throw new SetupError(`Unknown app "${name}"; use ${APPS.join(' or ')}`);
  if (!process.env.REDIS_URL && existsSync(runtimeFile)) {
    process.env.REDIS_URL = JSON.parse(readFileSync(runtimeFile, 'utf8')).redisUrl;
  }
  if (!process.env.REDIS_URL) throw new SetupError('Set REDIS_URL, or run npm start in this folder first');
  await prepare();
  await checkSettings();
  watcher = startWatcher(drainMs);
  await keepApp(name, keepPorts);
  if (!stopping) say(`The ${name} is ready. Ctrl-C drains and ends it`);
}

/** Allows one `npm start` per folder, because two would share its Redis. */
async function lockFolder() {
  const holder = await lock(lockFile, START_COMMANDS).catch((error) => {
    throw new SetupError(`DATA_DIR: ${error.message}`);
  });
  if (holder !== undefined)
    throw new SetupError(`Sluice already runs in this folder (process ${holder}); stop it first`);
  locked = true;
}

async function startAll() {
  await lockFolder();
  await prepare();
  const settings = await checkSettings();
  watcher = startWatcher(drainMs);
  if (process.env.REDIS_URL) say('Using the Redis of REDIS_URL');
  else await keepRedis(await earlierPort());
  if (stopping) return;
  writeRuntime();
  say('Starting the gateway (HTTP) and a worker (models)');
  let url = '';
  let adminUrl = '';
  const ready = [
    keepApp('gateway', ({ port, adminPort }) => {
      keepPorts({ port, adminPort });
      url = urlOf(process.env.TLS_CERT ? 'https' : 'http', process.env.HOST || 'localhost', port);
      adminUrl = urlOf('http', process.env.ADMIN_HOST || '127.0.0.1', adminPort);
      writeRuntime(url, adminUrl);
    }),
    keepApp('worker'),
  ];
  const key = developmentKey();
  writeRuntime(url, adminUrl);
  await Promise.all(ready);
  while (!(await serves(adminUrl))) {
    if (stopping) return;
    await delay(100);
  }
  showReady({ url, adminUrl, key, pages: settings.PUBLIC_DOCS });
}

/** Says what runs, and what to try first. */
function showReady({ url, adminUrl, key, pages }) {
  const token = process.env.ADMIN_TOKEN ? 'the value of ADMIN_TOKEN' : `in ${tokenFile}`;
  const command = home === root ? 'npm run sluice --' : 'npx sluice';
  const start = home === root ? 'npm start -- worker' : 'npx sluice start worker';
  console.log(`
Sluice is ready.

  Playground     ${pages ? `${url}/` : 'disabled (PUBLIC_DOCS=false)'}
  API reference  ${pages ? `${url}/docs` : 'disabled (PUBLIC_DOCS=false)'}
  API key        ${key}
  Metrics        ${adminUrl}/metrics
  Admin API      ${adminUrl}/admin/keys and /admin/jobs (token: ${token})

Try it:

curl -X POST ${url}/predict \\
  -H ${quote(`X-API-Key: ${key}`)} \\
  -H 'Content-Type: application/json' \\
  -d '{"text": "This product is amazing!"}'

Next, in another terminal:

  # answers for a file: a text on each line, or a CSV file with a column "text"
  ${command} batch FILE -o results.csv
  # another worker, for more texts per second
  ${start}
  # keys and limits for other users
  ${command} keys --help
${process.env.HOST ? '' : '\nOnly this machine can reach Sluice. To serve other machines, set HOST=0.0.0.0.'}
Ctrl-C answers the requests in flight, then stops everything.
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
