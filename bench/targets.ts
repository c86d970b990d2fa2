import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { queueName } from '@sluice/shared';
import { freePort, startWatcher } from '../scripts/redis.mjs';
import { run, SetupError, say } from '../scripts/setup.mjs';
import { bundledSpec, killGroup, modelProcesses, Rig, root, until } from '../tests/harness.js';
import type { Endpoint } from './load.js';
import type { Processes } from './processorTime.js';

/** A running server. */
interface Server extends Endpoint {
  processes: Processes;
  stop(): Promise<void>;
}

/** A server that is started for a round and ended after it. */
export interface Target {
  name: string;
  start(): Promise<Server>;
}

/** A rate limit that counts every request and refuses none. */
export const MANY = 1_000_000_000;

/** Settings as `npm start` has them when its output is not a terminal: the log in JSON at level `info`, the default deadline. */
export const AS_SHIPPED = { LOG_LEVEL: 'info', LOG_FORMAT: '', REQUEST_TIMEOUT_SECONDS: '' };

/** What a running Sluice has done so far. */
interface Done {
  /** Interactive messages that were put into the queue. */
  messages: number;
  /** Runs of the model. */
  runs: number;
}

/** Sluice with one gateway, one worker with one model process per core, and its own Redis. */
export const sluice = {
  name: 'Sluice',
  async start(): Promise<Server & { done(): Promise<Done> }> {
    const rig = await Rig.start({ quiet: true });
    const [gateway, key, worker] = await Promise.all([
      rig.gateway(AS_SHIPPED),
      rig.key({ limits: [{ limit: MANY, windowSeconds: 60 }], bulkLimit: MANY }),
      rig.worker({ ...AS_SHIPPED, MODEL_PROCESSES: '' }),
    ]);
    const processes = {
      gateway: [gateway.app.pid],
      worker: [worker.pid],
      model: await modelProcesses(worker),
      redis: [rig.redisPid],
    };
    const { adminPort } = await worker.ready();
    const done = async () => {
      const metrics = await (await fetch(`http://127.0.0.1:${adminPort}/metrics`)).text();
      const runs = [...metrics.matchAll(/^sluice_micro_batch_rows_count\{.*\} (\d+)$/gm)];
      return {
        // BullMQ numbers the messages.
        messages: Number(await rig.redis.get(`{sluice}:${queueName(bundledSpec, 'interactive')}:id`)),
        runs: runs.reduce((sum, [, count]) => sum + Number(count), 0),
      };
    };
    return { url: gateway.url, key, processes, done, stop: () => rig.close() };
  },
} satisfies Target;

const python = fileURLToPath(new URL('.venv/bin/python', import.meta.url));

/** Installs the FastAPI service into a virtual environment; returns whether that succeeded, now or before. */
export function ensureFastApi(): boolean {
  if (existsSync(python)) return true;
  say('Installing FastAPI and onnxruntime into bench/.venv');
  try {
    run('python3', ['-m', 'venv', 'bench/.venv']);
    run(python, ['-m', 'pip', 'install', '-q', '-r', 'bench/fastapi/requirements.txt']);
    return true;
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    say(`Skipping FastAPI in this run: ${error.message}`);
    return false;
  }
}

/** FastAPI with onnxruntime, as in the tutorial; see fastapi/app.py. */
export const fastApi = (workers: number): Target => ({
  name: `FastAPI, ${workers} uvicorn ${workers === 1 ? 'worker' : 'workers'}`,
  async start() {
    const port = await freePort();
    const args = ['--host', '127.0.0.1', '--port', String(port), '--workers', String(workers)];
    const child = spawn(
      python,
      ['-m', 'uvicorn', 'app:app', '--loop', 'uvloop', '--http', 'httptools', '--no-access-log', ...args],
      {
        cwd: `${root}bench/fastapi`,
        detached: true,
        stdio: 'ignore',
        env: { PATH: process.env.PATH, API_KEY: 'your-secret-key', RATE_LIMIT_REQUESTS: String(MANY) },
      },
    );
    watcher ??= startWatcher(0);
    watcher.group(child.pid);
    const gone = once(child, 'exit');
    const url = `http://127.0.0.1:${port}`;
    await until(
      'FastAPI answers',
      () =>
        fetch(`${url}/health`).then(
          ({ ok }) => ok,
          () => false,
        ),
      30_000,
    );
    const { pid } = child;
    return {
      url,
      key: 'your-secret-key',
      processes: {},
      stop: async () => {
        child.kill();
        await gone;
        if (pid !== undefined) killGroup(pid);
        watcher?.forget(pid);
      },
    };
  },
});

let watcher: ReturnType<typeof startWatcher> | undefined;
