// Finds, installs and starts a Redis. Node built-ins only: this runs before anything is installed.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, mkdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { delimiter, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { run, SetupError, say } from './setup.mjs';

const SERVERS = ['redis-server', 'valkey-server'];
const START_TIMEOUT_MS = 20_000;
const STOP_TIMEOUT_MS = 10_000;

/** Ways to install one, by the program that they need; `env` keeps a packaged service from being started. */
const INSTALLERS = [
  {
    program: 'apt-get',
    asRoot: true,
    commands: [
      ['apt-get', 'update'],
      ['apt-get', 'install', '-y', '--no-install-recommends', 'redis-server'],
    ],
    env: { DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' },
  },
  { program: 'dnf', asRoot: true, commands: [['dnf', 'install', '-y', 'redis']] },
  { program: 'apk', asRoot: true, commands: [['apk', 'add', 'redis']] },
  { program: 'brew', asRoot: false, commands: [['brew', 'install', 'redis']] },
];

/** The path of a program, or undefined. */
function which(program) {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    const path = join(folder, program);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not here.
    }
  }
  return undefined;
}

const findServer = () => SERVERS.map(which).find((path) => path !== undefined);

/** The path of a Redis server, installed if need be. Throws SetupError with the line to run where it cannot be. */
export function ensureRedisServer() {
  const found = findServer();
  if (found) return found;
  const isRoot = process.getuid?.() === 0;
  const installer = INSTALLERS.find(({ program }) => which(program));
  const line = installer?.commands.map((command) => command.join(' ')).join(' && ');
  if (installer && (isRoot || !installer.asRoot)) {
    say(`No redis-server or valkey-server in PATH; installing one: ${line}`);
    for (const [program, ...args] of installer.commands)
      run(program, args, { ...process.env, ...installer.env });
    const installed = findServer();
    if (installed) return installed;
  }
  throw new SetupError(
    'Sluice needs a Redis, and there is no redis-server or valkey-server in PATH. ' +
      (line
        ? `Install one: ${line.replaceAll(/(^|&& )/g, installer.asRoot ? '$1sudo ' : '$1')}`
        : 'Install Redis 6.2 or later') +
      ', or point REDIS_URL at one.',
  );
}

/** A port of 127.0.0.1 that is free now. */
export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/**
 * Whether a process lives and its command line holds a word. One that is dead and only not reaped does not live:
 * in a container there may be nobody to reap it.
 */
export function isRunning(pid, word = '') {
  if (process.platform !== 'linux') {
    const { status, stdout } = spawnSync('ps', ['-o', 'stat=,command=', '-p', String(pid)], {
      encoding: 'utf8',
    });
    return status === 0 && !stdout.trimStart().startsWith('Z') && stdout.includes(word);
  }
  try {
    const [, state] = /\) (\S)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? [];
    return state !== 'Z' && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(word);
  } catch {
    return false; // No such process.
  }
}

/**
 * Ends the Redis of an earlier run that was killed hard: two servers on one append-only file would ruin it. Its watcher
 * does that too; this is for the case that there is none any more.
 */
async function endEarlier(folder) {
  let pid;
  try {
    pid = Number(readFileSync(join(folder, 'redis.pid'), 'utf8'));
  } catch {
    return; // It ended as it should.
  }
  const isOurs = () =>
    SERVERS.some((server) => isRunning(pid, server)) && workingFolder(pid) === realpathSync(folder);
  if (!isOurs()) return;
  say(`Waiting for the Redis of an earlier run (process ${pid}) to end`);
  const until = Date.now() + STOP_TIMEOUT_MS;
  for (let told = false; isOurs(); await delay(100)) {
    if (Date.now() > until) throw new SetupError(`The Redis of an earlier run (process ${pid}) does not end`);
    if (!told && Date.now() > until - STOP_TIMEOUT_MS / 2) {
      told = true;
      process.kill(pid, 'SIGTERM');
    }
  }
}

/** The folder that a process works in: Redis goes to that of its data. */
function workingFolder(pid) {
  if (process.platform === 'linux') return readlinkSync(`/proc/${pid}/cwd`);
  const { stdout } = spawnSync('lsof', ['-a', '-p', String(pid), '-d', 'cwd', '-Fn'], { encoding: 'utf8' });
  return /^n(.*)$/m.exec(stdout ?? '')?.[1];
}

/** Asks the server at a port about itself; undefined when there is no answer. */
function serverInfo(port) {
  return new Promise((resolve) => {
    const socket = createConnection({ port, host: '127.0.0.1' }, () => socket.write('INFO\r\n'));
    let answer = '';
    const settle = (text) => {
      socket.destroy();
      resolve(text);
    };
    socket.setTimeout(1_000, () => settle(undefined));
    socket.on('error', () => settle(undefined));
    socket.on('data', (data) => {
      answer += data;
      const length = Number(/^\$(\d+)\r\n/.exec(answer)?.[1] ?? Number.POSITIVE_INFINITY);
      if (answer.length >= length) settle(answer);
    });
  });
}

/**
 * Starts a Redis on 127.0.0.1, detached, so that a terminal's Ctrl-C does not reach it before those who use it have
 * drained.
 * @param {string} folder for its append-only file and log
 * @param {(child: import('node:child_process').ChildProcess) => void} [onSpawn] is told of each process at once, long
 *   before it answers; one that does not is ended
 * @param {number} [port] that it had before; a free one if not given
 * @returns {Promise<{url: string, port: number, child: import('node:child_process').ChildProcess}>} once it has loaded
 *   its data, however long that takes
 */
export async function startRedis(folder, onSpawn = () => {}, port) {
  const server = ensureRedisServer();
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  await endEarlier(folder);
  const until = Date.now() + START_TIMEOUT_MS;
  while (Date.now() < until) {
    const usedPort = port ?? (await freePort());
    const settings = {
      port: usedPort,
      bind: '127.0.0.1',
      dir: folder,
      appendonly: 'yes',
      save: '',
      'maxmemory-policy': 'noeviction',
      pidfile: join(folder, 'redis.pid'),
      logfile: join(folder, 'redis.log'),
    };
    const args = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, String(value)]);
    const child = spawn(server, args, { detached: true, stdio: 'ignore' });
    onSpawn(child);
    const gone = once(child, 'exit').then(
      () => true,
      () => true,
    );
    let loading = false;
    while (loading || Date.now() < until) {
      const info = await serverInfo(usedPort);
      // Another server may have taken the port in between.
      if (info?.includes(`process_id:${child.pid}\r\n`)) {
        if (info.includes('loading:0'))
          return { url: `redis://127.0.0.1:${usedPort}`, port: usedPort, child };
        if (!loading) say('Redis loads its data');
        loading = true;
      }
      if (await Promise.race([gone, delay(50)])) break;
    }
    child.kill('SIGKILL');
    await gone;
    await delay(200);
  }
  throw new SetupError(`Redis did not start; see ${join(folder, 'redis.log')}`);
}

/** Ends a Redis: it writes what it holds first. */
export async function stopRedis(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGTERM');
  // A stopped process takes no SIGTERM.
  child.kill('SIGCONT');
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
  await gone;
  clearTimeout(timer);
}

/**
 * Starts a detached process that ends what we started should we die without doing it ourselves. It learns of our
 * death by the end of a pipe, which no signal can prevent.
 * @param drainMs for the apps, which drain by themselves, before they are killed
 * @returns what tells it whom to end: process groups (apps) first, then servers (Redis)
 */
export function startWatcher(drainMs) {
  const file = fileURLToPath(new URL('watcher.mjs', import.meta.url));
  /** What a watcher has to know, should one die before us. */
  const watched = new Map();
  let watcher;
  const tell = (message) => watcher.stdin.write(`${JSON.stringify(message)}\n`);
  const start = () => {
    watcher = spawn(process.execPath, [file, String(drainMs)], {
      detached: true,
      stdio: ['pipe', 'ignore', 'ignore'],
    });
    watcher.unref();
    watcher.stdin.unref?.();
    watcher.stdin.on('error', () => {}); // It is gone: the next one is told.
    watcher.once('exit', () => setTimeout(start, 100).unref());
    for (const message of watched.values()) tell(message);
  };
  const watch = (pid, message) => {
    watched.set(pid, message);
    tell(message);
  };
  start();
  return {
    group: (pid) => watch(pid, { group: pid }),
    server: (pid) => watch(pid, { server: pid }),
    forget: (pid) => {
      watched.delete(pid);
      tell({ forget: pid });
    },
  };
}
