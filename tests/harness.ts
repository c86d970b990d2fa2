import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import {
  connectRedis,
  createLog,
  type KeyOptions,
  Keyring,
  makeKey,
  modelSpecs,
  readSettings,
  settingsSchema,
} from '@sluice/shared';
import type { Redis } from 'ioredis';
import { isRunning } from '../scripts/lock.mjs';
import { startRedis, startWatcher, stopRedis } from '../scripts/redis.mjs';
import { appFile, NODE_FLAGS } from '../scripts/setup.mjs';

export const root = fileURLToPath(new URL('../', import.meta.url));
export const gatewayMain = appFile('gateway');
export const workerMain = appFile('worker');
/** A worker whose model processes hang, crash, refuse or are slow for marked texts. */
export const faultyWorkerMain = join(root, 'tests/faulty/worker.mjs');
export const cliMain = appFile('cli');

/** Folder for the files of tests: in memory if possible, because a busy disk can delay Redis beyond its command timeout. */
export const temporary = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();

/** The bundled classifier, as a {@link Rig} configures it. */
const BUNDLED = 'minilm-l6-sst2';
export const [bundledSpec] = modelSpecs(readSettings({ MODEL: BUNDLED }));

export const silentLog = createLog('test', { LOG_LEVEL: 'silent', LOG_FORMAT: 'json' });
export type Env = Record<string, string>;

const unset = Object.fromEntries(Object.keys(settingsSchema.shape).map((name) => [name, '']));

/** Ends what a killed test process leaves behind. */
export const watcher = startWatcher(0);

/** Polls until a condition holds. */
export async function until(what: string, holds: () => boolean | Promise<boolean>, withinMs = 30_000) {
  const end = performance.now() + withinMs;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`Not within ${withinMs} ms: ${what}`);
    await delay(20);
  }
}

/** Whether a process is running, and not a zombie. */
export { isRunning };

/** The bit of SIGHUP in `SigCgt` of /proc/<pid>/status. */
const SIGHUP_BIT = 1n;

/** Whether the program of a process has begun: it has the listeners of its entry file. Before, Node ends at a signal. */
export function catchesSignals(pid: number): boolean {
  const caught = /SigCgt:\s*(\S+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return (BigInt(`0x${caught}`) & SIGHUP_BIT) !== 0n;
}

/** A process under test. */
export class App {
  readonly child: ChildProcess;
  output = '';
  #message: Promise<Record<string, unknown>>;
  #gone: Promise<unknown>;

  /** @param quiet discards its output */
  constructor(command: string, args: readonly string[], env: Env, quiet = false, folder = root) {
    const output = quiet ? 'ignore' : 'pipe';
    this.child = spawn(command, args, {
      cwd: folder,
      detached: true,
      stdio: ['ignore', output, output, 'ipc'],
      // A fresh environment, so that neither the caller's settings nor a .env file affect the test. Empty is unset.
      env: { ...unset, PATH: process.env.PATH, HOME: process.env.HOME, ...env },
    });
    if (this.child.pid !== undefined) watcher.group(this.child.pid);
    this.#gone = once(this.child, 'exit');
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.output += text;
      });
    }
    this.#message = new Promise((resolve, reject) => {
      this.child.on('message', (message) => resolve(message as Record<string, unknown>));
      this.child.once('exit', (code) =>
        reject(new Error(`The process exited with ${code}:\n${this.output}`)),
      );
    });
    this.#message.catch(() => {});
  }

  get pid(): number {
    if (this.child.pid === undefined) throw new Error('The process was not started');
    return this.child.pid;
  }

  /** Resolves to the facts of the app when it is ready. */
  ready(): Promise<Record<string, unknown>> {
    return this.#message;
  }

  /** Waits until it has exited; resolves to the exit status, null after a signal. */
  async exit(): Promise<number | null> {
    await this.#gone;
    return this.child.exitCode;
  }

  /** Drains it, and kills the rest of its process group. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) {
      this.child.kill('SIGCONT');
      this.child.kill(signal);
      await this.#gone;
    }
    killGroup(this.pid);
    watcher.forget(this.pid);
  }
}

export function killGroup(pid: number): void {
  // Group 1 would be every process.
  if (pid <= 1) throw new RangeError(`Not a child process: ${pid}`);
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // The group is already gone.
  }
}

export interface Answer {
  status: number;
  headers: Headers;
  // The tests check its contents.
  // biome-ignore lint/suspicious/noExplicitAny: bodies of any route, valid and invalid
  body: any;
  ms: number;
}

/** A Redis server, gateways and workers for one test suite. `close` ends them all. */
export class Rig {
  #started: App[] = [];
  #redis: Awaited<ReturnType<typeof startRedis>>;
  readonly folder: string;
  /** For direct access of the test to Redis. */
  readonly redis: Redis;
  readonly #quiet: boolean;

  private constructor(folder: string, redis: Awaited<ReturnType<typeof startRedis>>, quiet: boolean) {
    this.folder = folder;
    this.#redis = redis;
    this.#quiet = quiet;
    this.redis = connectRedis(redis.url, 'worker', silentLog);
  }

  /** @param quiet discards the output of the apps */
  static async start({ quiet = false } = {}): Promise<Rig> {
    const folder = mkdtempSync(join(temporary, 'sluice-test-'));
    const redis = await startRedis(join(folder, 'redis'), ({ pid }) => watcher.server(pid));
    return new Rig(folder, redis, quiet);
  }

  get redisUrl(): string {
    return this.#redis.url;
  }

  /** URL of the Unix socket, which `npm start` uses. */
  get redisSocketUrl(): string {
    return this.#redis.socketUrl;
  }

  get redisPid(): number {
    const { pid } = this.#redis.child;
    if (pid === undefined) throw new Error('Redis was not started');
    return pid;
  }

  /**
   * Calls a function with the words of each command that Redis runs, until the returned one is called; those of scripts are
   * not among them. The monitor of the client library fails if the first commands arrive together with the reply to MONITOR.
   */
  async monitor(onCommand: (words: string[]) => void): Promise<() => void> {
    const socket = connect(Number(new URL(this.redisUrl).port), '127.0.0.1');
    const lines = createInterface(socket);
    const started = once(lines, 'line');
    socket.write('MONITOR\r\n');
    await started;
    lines.on('line', (line) => {
      if (/^\S+ \[\d+ lua\]/.test(line)) return;
      onCommand([...line.matchAll(/"((?:[^"\\]|\\.)*)"/g)].map(([, word = '']) => word));
    });
    return () => socket.destroy();
  }

  /** Restarts Redis on the same port with the same data. */
  async restartRedis(): Promise<void> {
    const onSpawn = ({ pid }: ChildProcess) => watcher.server(pid);
    this.#redis = await startRedis(join(this.folder, 'redis'), onSpawn, this.#redis.port);
  }

  get env(): Env {
    return {
      REDIS_URL: this.redisSocketUrl,
      PORT: '0',
      ADMIN_PORT: '0',
      WORKER_ADMIN_PORT: '0',
      DATA_DIR: this.folder,
      // So long that no request misses its deadline because the machine is busy.
      REQUEST_TIMEOUT_SECONDS: '20',
      // One model starts faster than all of models.json.
      MODEL: BUNDLED,
      LOG_LEVEL: 'debug',
      // Tests poll often.
      READ_LIMIT_REQUESTS: '1000000',
      MAX_STREAMS: '100000',
    };
  }

  /** Writes a `models.json`; returns the settings that make apps use it. */
  models(models: readonly object[]): Env {
    const file = join(this.folder, `models-${randomUUID()}.json`);
    writeFileSync(file, JSON.stringify({ models }));
    return { MODEL: '', MODELS_FILE: file };
  }

  spawn(main: string, env: Env = {}): App {
    const flags = NODE_FLAGS[main === gatewayMain ? 'gateway' : 'worker'];
    const app = new App(process.execPath, [...flags, main], { ...this.env, ...env }, this.#quiet);
    this.#started.push(app);
    return app;
  }

  /** Starts a gateway; resolves when it is ready. */
  async gateway(env: Env = {}): Promise<{ app: App; url: string }> {
    const app = this.spawn(gatewayMain, env);
    const { port } = await app.ready();
    const url = `http://127.0.0.1:${port}`;
    await until('the gateway is ready', async () => (await fetch(`${url}/ready`)).status === 200);
    return { app, url };
  }

  /** Starts a worker; resolves when it takes messages. */
  async worker(env: Env = {}, main = workerMain): Promise<App> {
    // One model process starts faster than one per core.
    const app = this.spawn(main, { MODEL_PROCESSES: '1', ...env });
    await app.ready();
    return app;
  }

  /** Creates a key, with a high limit by default. */
  async key(options: Partial<KeyOptions> = {}): Promise<string> {
    const key = makeKey();
    await new Keyring(this.redis).register(
      key,
      { name: 'test', limits: [{ limit: 100_000, windowSeconds: 60 }], ...options },
      Date.now(),
    );
    return key;
  }

  /**
   * Prepares the rig for the next test: kills the other apps, deletes all files and all data in Redis except the streams of replies, and
   * starts Redis if it is down.
   * @param kept an app that keeps running
   */
  async reset(kept: App): Promise<void> {
    const others = this.#started.filter((app) => app !== kept);
    this.#started = this.#started.filter((app) => app === kept);
    await Promise.all(others.map((app) => app.stop('SIGKILL')));
    if (!isRunning(this.redisPid)) await this.restartRedis();
    // A gateway expects its stream of replies to exist.
    const found = (await this.redis.keys('*')).filter((name) => !name.startsWith('{sluice}:replies:'));
    if (found.length > 0) await this.redis.del(found);
    for (const name of readdirSync(this.folder)) {
      if (name !== 'redis') rmSync(join(this.folder, name), { recursive: true });
    }
  }

  /** Kills the gateways and workers. */
  async stopApps(): Promise<void> {
    await Promise.all(this.#started.splice(0).map((app) => app.stop('SIGKILL')));
  }

  async close(): Promise<void> {
    await this.stopApps();
    this.redis.disconnect();
    await stopRedis(this.#redis.child);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Sends a request and reads the whole response. */
export async function request(url: string, init: RequestInit = {}): Promise<Answer> {
  const startMs = performance.now();
  const response = await fetch(url, init);
  const text = await response.text();
  const isJson = /^application\/(problem\+)?json/.test(response.headers.get('content-type') ?? '');
  return {
    status: response.status,
    headers: response.headers,
    body: isJson && text !== '' ? JSON.parse(text) : text,
    ms: performance.now() - startMs,
  };
}

/** Sends a JSON body with `POST`. */
export function post(url: string, key: string, body: unknown, signal?: AbortSignal): Promise<Answer> {
  return request(url, {
    method: 'POST',
    headers: { 'X-API-Key': key, 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
    ...(signal ? { signal } : {}),
  });
}

/** Process ids of a worker's model processes, oldest first. */
export async function modelProcesses(worker: App): Promise<number[]> {
  const ps = spawn('ps', ['-o', 'pid=,stat=,args=', '--ppid', String(worker.pid)]);
  let text = '';
  for await (const part of ps.stdout.setEncoding('utf8')) text += part;
  return text
    .split('\n')
    .filter((line) => /process\.m?js/.test(line) && !/^\s*\d+\s+Z/.test(line))
    .map((line) => Number.parseInt(line, 10));
}
