// Finds, installs and starts a Redis. Node built-ins only: this runs before anything is installed.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
} from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { delimiter, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { isRunning } from './lock.mjs';
import { run, SetupError, say } from './setup.mjs';

const SERVERS = ['redis-server', 'valkey-server'];
const START_TIMEOUT_MS = 20_000;
const STOP_TIMEOUT_MS = 10_000;
/** Linux allows 107 bytes, macOS 103. */
const MAX_SOCKET_PATH_BYTES = 103;

/** Commands to install a server, by the program that they need. `env` prevents the package from starting its service. */
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
      // Not in this folder.
    }
  }
  return undefined;
}

const findServer = () => SERVERS.map(which).find((path) => path !== undefined);

/** The path of a Redis server, which is installed if necessary. Throws SetupError with the command to run if that fails. */
export function ensureRedisServer() {
  const found = findServer();
  if (found) return found;
  const isRoot = process.getuid?.() === 0;
  const installer = INSTALLERS.find(({ program }) => which(program));
  const line = installer?.commands.map((command) => command.join(' ')).join(' && ');
  if (installer && (isRoot || !installer.asRoot)) {
    say(`No redis-server or valkey-server in PATH; installing it: ${line}`);
    for (const [program, ...args] of installer.commands)
      run(program, args, { ...process.env, ...installer.env });
    const installed = findServer();
    if (installed) return installed;
  }
  throw new SetupError(
    'Sluice needs Redis, and there is no redis-server or valkey-server in PATH. ' +
      (line
        ? `Install it: ${line.replaceAll(/(^|&& )/g, installer.asRoot ? '$1sudo ' : '$1')}`
        : 'Install Redis 6.2 or later') +
      ', or set REDIS_URL to a server.',
  );
}

/** A free port on 127.0.0.1. */
export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** Whether a port of 127.0.0.1 is free. */
export async function isFree(port) {
  const server = createServer().listen(port, '127.0.0.1');
  try {
    await once(server, 'listening');
  } catch {
    return false; // In use.
  }
  server.close();
  await once(server, 'close');
  return true;
}

/**
 * Ends the Redis of an earlier run that got SIGKILL, because two servers would corrupt the append-only file. Usually its
 * watcher has already ended it.
 */
async function endEarlier(folder) {
  let pid;
  try {
    pid = Number(readFileSync(join(folder, 'redis.pid'), 'utf8'));
  } catch {
    return; // It has ended normally.
  }
  const isOurs = () =>
    SERVERS.some((server) => isRunning(pid, server)) && workingFolder(pid) === realpathSync(folder);
  if (!isOurs()) return;
  say(`Waiting for the Redis of an earlier run (process ${pid}) to end`);
  const until = Date.now() + STOP_TIMEOUT_MS;
  for (let signaled = false; isOurs(); await delay(100)) {
    if (Date.now() > until) throw new SetupError(`The Redis of an earlier run (process ${pid}) does not end`);
    if (!signaled && Date.now() > until - STOP_TIMEOUT_MS / 2) {
      signaled = true;
      process.kill(pid, 'SIGTERM');
    }
  }
}

/** The working folder of a process; Redis changes to its data folder. */
function workingFolder(pid) {
  if (process.platform === 'linux') return readlinkSync(`/proc/${pid}/cwd`);
  const { stdout } = spawnSync('lsof', ['-a', '-p', String(pid), '-d', 'cwd', '-Fn'], { encoding: 'utf8' });
  return /^n(.*)$/m.exec(stdout ?? '')?.[1];
}

/** The `INFO` of the server on a port; undefined if it does not answer. */
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

const unixUrl = (path) => `unix://${path.split('/').map(encodeURIComponent).join('/')}`;

/**
 * Starts a Redis server on 127.0.0.1. It is detached, so that Ctrl-C in a terminal does not reach it before the apps have
 * drained.
 * @param {string} folder for its append-only file and log
 * @param {(child: import('node:child_process').ChildProcess) => void} [onSpawn] receives each process as soon as it is
 *   started; a process that does not answer is killed
 * @param {number} [port] its earlier port; a free one if not given
 * @returns {Promise<{url: string, socketUrl: string, port: number, child: import('node:child_process').ChildProcess}>}
 *   once it has loaded its data, however long that takes; `socketUrl` is that of its Unix socket, or the
 *   same as `url` if the path is too long for a socket
 */
export async function startRedis(folder, onSpawn = () => {}, port) {
  const server = ensureRedisServer();
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  await endEarlier(folder);
  const socket = resolve(folder, 'redis.sock');
  let hasSocket = Buffer.byteLength(socket) <= MAX_SOCKET_PATH_BYTES;
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
      ...(hasSocket ? { unixsocket: socket, unixsocketperm: '700' } : {}),
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
      // Another server may have taken the port in the meantime.
      if (info?.includes(`process_id:${child.pid}\r\n`)) {
        if (info.includes('loading:0')) {
          const url = `redis://127.0.0.1:${usedPort}`;
          return { url, socketUrl: hasSocket ? unixUrl(socket) : url, port: usedPort, child };
        }
        if (!loading) say('Redis is loading its data');
        loading = true;
      }
      if (await Promise.race([gone, delay(50)])) break;
    }
    child.kill('SIGKILL');
    await gone;
    // Some file systems have no sockets. After another failure the socket stays, since apps may be connected to it.
    if (existsSync(settings.logfile) && /Unix socket:/.test(readFileSync(settings.logfile, 'utf8')))
      hasSocket = false;
    await delay(200);
  }
  throw new SetupError(`Redis did not start; see ${join(folder, 'redis.log')}`);
}

/** Stops a Redis server, which first writes its data to disk. */
export async function stopRedis(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGTERM');
  // A paused process does not handle SIGTERM.
  child.kill('SIGCONT');
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
  await gone;
  clearTimeout(timer);
}

/**
 * Starts a detached watcher process. If this process dies, the watcher ends the processes that it started. It notices the
 * death by the end of a pipe, which also works for SIGKILL.
 * @param drainMs time for the apps to drain by themselves before they are killed
 * @returns functions that register process groups (apps), which are ended first, and servers (Redis)
 */
export function startWatcher(drainMs) {
  const file = fileURLToPath(new URL('watcher.mjs', import.meta.url));
  /** All registrations, for the next watcher if one dies. */
  const watched = new Map();
  let watcher;
  const send = (message) => watcher.stdin.write(`${JSON.stringify(message)}\n`);
  const start = () => {
    watcher = spawn(process.execPath, [file, String(drainMs)], {
      detached: true,
      stdio: ['pipe', 'ignore', 'ignore'],
    });
    watcher.unref();
    watcher.stdin.unref?.();
    watcher.stdin.on('error', () => {}); // It has died; the next one gets all registrations.
    watcher.once('exit', () => setTimeout(start, 100).unref());
    for (const message of watched.values()) send(message);
  };
  const watch = (pid, message) => {
    watched.set(pid, message);
    send(message);
  };
  start();
  return {
    group: (pid) => watch(pid, { group: pid }),
    server: (pid) => watch(pid, { server: pid }),
    forget: (pid) => {
      watched.delete(pid);
      send({ forget: pid });
    },
  };
}
