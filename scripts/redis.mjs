// Finds, installs and starts a Redis. Node built-ins only: this runs before anything is installed.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, mkdirSync, readFileSync } from 'node:fs';
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

/** Two servers on one append-only file would ruin it: waits for that of an earlier run to end. */
async function awaitEarlier(folder) {
  let pid;
  try {
    pid = Number(readFileSync(join(folder, 'redis.pid'), 'utf8'));
  } catch {
    return; // Ended as it should.
  }
  const until = Date.now() + STOP_TIMEOUT_MS + START_TIMEOUT_MS;
  let told = false;
  while (isRunning(pid, '-server')) {
    if (!told) say(`Waiting for the Redis of an earlier run (process ${pid}) to end`);
    told = true;
    if (Date.now() > until)
      throw new SetupError(`A Redis of an earlier run (process ${pid}) still uses ${folder}`);
    await delay(200);
  }
}

/** Sends one command and resolves to the first bytes of the answer; undefined when there is none. */
function ask(port, command) {
  return new Promise((resolve) => {
    const socket = createConnection({ port, host: '127.0.0.1' }, () => socket.write(`${command}\r\n`));
    const settle = (answer) => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(1_000, () => settle(undefined));
    socket.on('error', () => settle(undefined));
    socket.on('data', (data) => settle(data.toString()));
  });
}

/**
 * Starts a Redis on 127.0.0.1, detached, so that a terminal's Ctrl-C does not reach it before those who use it have
 * drained.
 * @param folder for its append-only file and log
 * @param port that it had before; a free one if not given
 * @returns {Promise<{url: string, port: number, child: import('node:child_process').ChildProcess}>} once it answers
 */
export async function startRedis(folder, port) {
  const server = ensureRedisServer();
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  await awaitEarlier(folder);
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
    const gone = once(child, 'exit').then(
      () => true,
      () => true,
    );
    while (Date.now() < until) {
      if ((await ask(usedPort, 'PING'))?.startsWith('+PONG')) {
        return { url: `redis://127.0.0.1:${usedPort}`, port: usedPort, child };
      }
      // Another process may have taken the port in between.
      if (await Promise.race([gone, delay(50)])) break;
    }
    await delay(200);
  }
  throw new SetupError(`Redis did not start; see ${join(folder, 'redis.log')}`);
}

/** Ends a Redis: it writes what it holds first. */
export async function stopRedis({ child }) {
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
 * @returns what tells it whom to end: process groups (apps) first, then servers (Redis)
 */
export function startWatcher() {
  const file = fileURLToPath(new URL('watcher.mjs', import.meta.url));
  const watcher = spawn(process.execPath, [file], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
  watcher.unref();
  watcher.stdin.unref?.();
  watcher.stdin.on('error', () => {}); // It is gone: nothing to tell.
  const tell = (message) => watcher.stdin.write(`${JSON.stringify(message)}\n`);
  return {
    group: (pid) => tell({ group: pid }),
    server: (pid) => tell({ server: pid }),
    forget: (pid) => tell({ forget: pid }),
  };
}
