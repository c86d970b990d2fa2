import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { connectRedis, type KeyOptions, Keyring, makeKey, names } from '@sluice/shared';
import type { Redis } from 'ioredis';
import * as z from 'zod';
import { freePort, startRedis, stopRedis } from '../../scripts/redis.mjs';
import { NODE_FLAGS } from '../../scripts/setup.mjs';
import { App, type Env, isRunning, killGroup, silentLog, temporary, until, watcher } from '../harness.js';
import { FaultyProxy } from './faultyProxy.js';

export const ADMIN_TOKEN = 'the-admin-token-of-the-soak';
export const DRAIN_SECONDS = 10;
const GATEWAYS = 2;
const WORKERS = 3;
/** Models by their tasks; each worker has one process for each. */
export const MODELS = { 'text-classification': 'sentiment', 'feature-extraction': 'vectors' } as const;

/** Names of uploads that are not finished. */
const UPLOADED = /^\{sluice\}:(stage|file-stage|uploads):/;

const modelsSchema = z.array(z.object({ workers: z.int() }));

/** A gateway or worker, which is started again whenever it ends. */
export interface Member {
  kind: 'gateway' | 'worker';
  name: string;
  /** Of a gateway; it keeps its port. */
  url: string;
  app: App;
  /** Whether a fault is in progress. */
  busy: boolean;
  /** When it was started. */
  startedMs: number;
}

/** A Redis server; it keeps its port and data. */
interface Server {
  folder: string;
  port: number;
  child: Awaited<ReturnType<typeof startRedis>>['child'];
  redis: Redis;
}

/** Everything that runs: two gateways, three workers, a Redis with a replica, and the proxy between them. */
export class Fleet {
  readonly folder = mkdtempSync(join(temporary, 'sluice-soak-'));
  readonly members: Member[] = [];
  readonly proxy: FaultyProxy;
  /** Process groups whose leader has ended. */
  readonly ended = new Map<number, string>();
  /** Called when a process exits although no fault was injected into it. */
  onUnexpected: (what: string) => void = () => {};
  #servers: [Server, Server];
  #root: string;
  #env: Env = {};
  #closing = false;
  /** For {@link whenReady}. */
  #key = '';

  private constructor(root: string, servers: [Server, Server]) {
    this.#root = root;
    this.#servers = servers;
    this.proxy = new FaultyProxy(servers[0].port);
  }

  /**
   * Starts everything; resolves when all are ready.
   * @param root folder of the build
   */
  static async start(root: string): Promise<Fleet> {
    const folder = mkdtempSync(join(temporary, 'sluice-soak-redis-'));
    const servers: [Server, Server] = [
      await startServer(join(folder, 'a')),
      await startServer(join(folder, 'b')),
    ];
    const fleet = new Fleet(root, servers);
    const [primary, replica] = servers;
    await replica.redis.replicaof('127.0.0.1', primary.port);
    const port = await fleet.proxy.start();
    const modelsFile = join(fleet.folder, 'models.json');
    const models = [
      {
        id: MODELS['text-classification'],
        task: 'text-classification',
        source: join(root, 'models/minilm-l6-sst2'),
      },
      {
        id: MODELS['feature-extraction'],
        task: 'feature-extraction',
        source: join(root, 'models/all-minilm-l6-v2'),
        pooling: 'mean',
        normalize: true,
      },
    ];
    writeFileSync(
      modelsFile,
      JSON.stringify({ models: models.map((model) => ({ ...model, processes: 1 })) }),
    );
    fleet.#env = {
      REDIS_URL: `redis://127.0.0.1:${port}`,
      MODELS_FILE: modelsFile,
      DATA_DIR: fleet.folder,
      LOG_LEVEL: 'warn',
      ADMIN_PORT: '0',
      WORKER_ADMIN_PORT: '0',
      ADMIN_TOKEN,
      DRAIN_SECONDS: String(DRAIN_SECONDS),
      READ_LIMIT_REQUESTS: '1000000',
      WEBHOOK_ALLOW_PRIVATE: 'true',
      WEBHOOK_RETRY_SECONDS: Array(60).fill('0.5').join(','),
    };
    for (let i = 1; i <= GATEWAYS; i++)
      fleet.#add('gateway', `gateway ${i}`, `http://127.0.0.1:${await freePort()}`);
    for (let i = 1; i <= WORKERS; i++) fleet.#add('worker', `worker ${i}`, '');
    await fleet.whenReady(60_000);
    return fleet;
  }

  get gateways(): Member[] {
    return this.members.filter(({ kind }) => kind === 'gateway');
  }

  get workers(): Member[] {
    return this.members.filter(({ kind }) => kind === 'worker');
  }

  /** A direct connection to the primary. */
  get redis(): Redis {
    return this.#servers[0].redis;
  }

  get redisPid(): number {
    return this.#servers[0].child.pid ?? 0;
  }

  /** Kills the primary and starts it again with its append-only file. */
  async restartRedis(): Promise<void> {
    const [primary] = this.#servers;
    primary.child.kill('SIGKILL');
    await once(primary.child, 'exit');
    const { child } = await startRedis(primary.folder, ({ pid }) => watcher.server(pid), primary.port);
    primary.child = child;
    await until('Redis answers', async () => (await primary.redis.ping().catch(() => '')) === 'PONG');
  }

  /** Makes the replica the primary. Redis waits until the replica has all data, so nothing is lost. */
  async failOver(): Promise<boolean> {
    const [primary, replica] = this.#servers;
    const isInSync = /slave0:.*state=online/.test(await primary.redis.info('replication'));
    if (!isInSync) return false;
    await primary.redis.call('FAILOVER', 'TO', '127.0.0.1', replica.port, 'TIMEOUT', 3_000);
    const hasRole = async () => /role:master/.test(await replica.redis.info('replication'));
    await until('the roles have changed', hasRole, 10_000).catch(() => {});
    if (!(await hasRole())) return false;
    this.#servers = [replica, primary];
    this.proxy.targetPort = replica.port;
    return true;
  }

  /** Ids of the model processes of a worker. */
  modelProcesses({ app }: Member): number[] {
    const file = `/proc/${app.pid}/task/${app.pid}/children`;
    return existsSync(file) ? readFileSync(file, 'utf8').trim().split(' ').filter(Boolean).map(Number) : [];
  }

  /** Resolves when each gateway sees all workers with all models. @throws Error after this time */
  async whenReady(withinMs: number): Promise<void> {
    this.#key ||= await this.key({});
    const endMs = performance.now() + withinMs;
    const leftMs = () => Math.max(0, endMs - performance.now());
    for (const { name, url } of this.gateways) {
      await until(
        `${name} sees ${WORKERS} workers with all models`,
        async () => {
          const response = await fetch(`${url}/models`, {
            headers: { 'X-API-Key': this.#key },
            signal: AbortSignal.timeout(2_000),
          }).catch(() => undefined);
          if (response?.status !== 200) return false;
          return modelsSchema.parse(await response.json()).every(({ workers }) => workers === WORKERS);
        },
        leftMs(),
      );
    }
    await until(
      'all model processes run',
      // A busy worker may have a spare process.
      () => this.workers.every((worker) => this.modelProcesses(worker).length >= Object.keys(MODELS).length),
      leftMs(),
    );
  }

  /** Counts of unfinished jobs and rows in Redis, as `<what> <number>`. */
  async unfinishedCounts(): Promise<string[]> {
    const counts = Object.entries(await this.redis.hgetall(names.counts));
    return counts.filter(([what]) => !what.startsWith('ended ')).map((count) => count.join(' '));
  }

  /** Creates a key. */
  async key(options: Omit<KeyOptions, 'name'>): Promise<string> {
    const key = makeKey();
    const keyring = new Keyring(this.redis);
    await keyring.register(key, { name: 'soak', ...options }, Date.now());
    return key;
  }

  /** All keys in Redis, except parts of interrupted uploads that have a TTL. */
  async lasting(): Promise<string[]> {
    const lasting: string[] = [];
    for (const name of await this.redis.keys('*')) {
      if (!UPLOADED.test(name) || (await this.redis.pttl(name)) === -1) lasting.push(name);
    }
    return lasting;
  }

  /** Gives a key a secret for webhooks. */
  async setWebhookSecret(keyId: string, secret: string): Promise<void> {
    await this.redis.hset(names.key(keyId), 'webhook_secret', secret);
  }

  async close(): Promise<void> {
    this.#closing = true;
    await Promise.all(this.members.map(({ app }) => app.stop('SIGKILL')));
    this.proxy.close();
    for (const { redis, child, folder } of this.#servers) {
      redis.disconnect();
      await stopRedis(child);
      rmSync(folder, { recursive: true, force: true });
    }
    rmSync(this.folder, { recursive: true, force: true });
  }

  #add(kind: Member['kind'], name: string, url: string): void {
    const member: Member = {
      kind,
      name,
      url,
      app: this.#spawn(kind, url),
      busy: false,
      startedMs: performance.now(),
    };
    this.members.push(member);
    this.#keep(member);
  }

  #spawn(kind: Member['kind'], url: string): App {
    const main = join(this.#root, 'apps', kind, 'bundle/main.js');
    const port = url === '' ? {} : { PORT: new URL(url).port };
    return new App(
      process.execPath,
      [...NODE_FLAGS[kind], main],
      { ...this.#env, ...port },
      false,
      this.#root,
    );
  }

  /** Starts an app again whenever it ends. */
  #keep(member: Member): void {
    const { app, kind, name, url } = member;
    app.child.once('exit', (code, signal) => {
      if (this.#closing) return;
      if (!member.busy) this.onUnexpected(`${name} exited (${signal ?? code}): ${app.output.slice(-2_000)}`);
      this.ended.set(app.pid, name);
      member.app = this.#spawn(kind, url);
      member.startedMs = performance.now();
      this.#keep(member);
    });
  }

  /** Open files and resident memory of a gateway or worker. */
  size({ app }: Member): { files: number; megabytes: number } {
    const status = readFileSync(`/proc/${app.pid}/status`, 'utf8');
    const kilobytes = Number(/VmRSS:\s*(\d+)/.exec(status)?.[1]);
    return { files: readdirSync(`/proc/${app.pid}/fd`).length, megabytes: Math.round(kilobytes / 1024) };
  }

  /**
   * Kills what remains of process groups whose leader has ended, and returns their names. Model processes must have ended by
   * themselves.
   */
  orphans(): string[] {
    const found: string[] = [];
    for (const [pid, name] of this.ended) {
      if (isGroupAlive(pid)) found.push(`${name} (${pid})`);
      killGroup(pid);
      watcher.forget(pid);
      this.ended.delete(pid);
    }
    return found;
  }
}

async function startServer(folder: string): Promise<Server> {
  const { port, child, url } = await startRedis(folder, ({ pid }) => watcher.server(pid));
  const redis = connectRedis(url, 'worker', silentLog);
  await redis.config('SET', 'repl-diskless-sync-delay', '0');
  return { folder, port, child, redis };
}

function isGroupAlive(pid: number): boolean {
  // A zombie is not alive.
  for (const id of readdirSync('/proc')) {
    if (!/^\d+$/.test(id)) continue;
    try {
      const stat = readFileSync(`/proc/${id}/stat`, 'utf8');
      const [state, , group] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      if (Number(group) === pid && state !== 'Z') return true;
    } catch {
      // It has ended since.
    }
  }
  return false;
}

/** Stops a process with SIGSTOP for `ms` milliseconds, then continues it if it still exists. */
export async function pause(pid: number, ms: number): Promise<void> {
  if (!isRunning(pid)) return;
  process.kill(pid, 'SIGSTOP');
  await delay(ms);
  if (isRunning(pid)) process.kill(pid, 'SIGCONT');
}
