import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { modelProcesses, Rig, root, temporary } from '../tests/harness.js';
import { load } from './load.js';
import { AS_SHIPPED, MANY } from './targets.js';

const megabytes = (pid: number) =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? Number.NaN) / 1000;

export interface Memory {
  requests: number;
  gateway: number;
  worker: number;
  /** Of the largest one. */
  modelProcess: number;
}

/** Resident memory in MB, read repeatedly until a number of requests have been answered. */
export async function memory(sentences: string, requests: number): Promise<Memory[]> {
  const rig = await Rig.start({ quiet: true });
  const [gateway, key, worker] = await Promise.all([
    rig.gateway(AS_SHIPPED),
    rig.key({ limits: [{ limit: MANY, windowSeconds: 60 }] }),
    rig.worker({ ...AS_SHIPPED, MODEL_PROCESSES: '' }),
  ]);
  const readings: Memory[] = [];
  for (let answered = 0; answered < requests; ) {
    answered += (await load({ url: gateway.url, key }, sentences, { clients: 64, seconds: 10 })).requests;
    readings.push({
      requests: answered,
      gateway: megabytes(gateway.app.pid),
      worker: megabytes(worker.pid),
      modelProcess: Math.max(...(await modelProcesses(worker)).map(megabytes)),
    });
  }
  await rig.close();
  return readings;
}

/** Seconds from `npm start`, installed and built, to the line that says that it is ready. */
export async function startSeconds(): Promise<number> {
  const folder = mkdtempSync(join(temporary, 'sluice-bench-'));
  const startMs = performance.now();
  const child = spawn(process.execPath, [join(root, 'scripts/start.mjs')], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: {
      PATH: process.env.PATH,
      HOME: process.env.HOME,
      PORT: '0',
      ADMIN_PORT: '0',
      WORKER_ADMIN_PORT: '0',
      DATA_DIR: folder,
    },
  });
  let readyMs = Number.NaN;
  for await (const line of createInterface(child.stdout)) {
    if (!line.includes('Sluice is ready')) continue;
    readyMs = performance.now();
    child.kill();
    break;
  }
  child.stdout.resume();
  if (child.exitCode === null) await once(child, 'exit');
  rmSync(folder, { recursive: true, force: true });
  return (readyMs - startMs) / 1000;
}
