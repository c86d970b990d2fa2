import { setImmediate } from 'node:timers/promises';
import { afterEach, expect, test } from '@jest/globals';
import { faultyCommand, faultyLoad, requestOf } from '../../../../tests/faulty/model.js';
import { silentLog } from '../../../../tests/harness.js';
import { Pool } from './pool.js';
import { ModelProcess, type RunError } from './supervisor.js';

let pool: Pool;
let launches: number;
let restarts: string[];
afterEach(() => pool.close());

/** A pool of one process, whose runs of marked texts are slow or hang. */
async function start(): Promise<void> {
  const load = faultyLoad();
  launches = 0;
  restarts = [];
  pool = new Pool({
    size: 1,
    launch: () => {
      launches++;
      return new ModelProcess(faultyCommand, load, 30_000);
    },
    log: silentLog,
    onRestart: (reason) => restarts.push(reason),
    onBroken: () => {},
  });
  await pool.start();
}

test('a busy process is reserved for its next run only for those who accept it', async () => {
  await start();
  const lease = await pool.acquire(() => true);
  const first = lease.run(requestOf('«slow:500» first'), 5_000);
  let hasLease = false;
  const patient = pool
    .acquire(() => false)
    .then(() => {
      hasLease = true;
    });
  await setImmediate();
  expect(hasLease).toBe(false);
  await Promise.all([first, patient]);
});

test('the next run of a process that seems to hang is given up before the process is killed', async () => {
  await start();
  const ends: string[] = [];
  const hanging = await pool.acquire(() => true);
  const hung = hanging
    .run(requestOf('«hang»'), 6_000)
    .catch((error: RunError) => ends.push(`first ${error.kind}`));
  const ahead = await pool.acquire(() => true);
  await ahead.run(requestOf('other'), 5_000).catch((error: RunError) => ends.push(`next ${error.kind}`));
  await hung;
  expect(ends).toEqual(['next not_started', 'first hung']);
  // The spare process takes over.
  await (await pool.acquire(() => false)).run(requestOf('after'), 10_000);
  expect(launches).toBe(2);
  expect(restarts).toEqual(['hung']);
});

test('a process whose slow run ends after all is used again', async () => {
  await start();
  const slow = await pool.acquire(() => true);
  const first = slow.run(requestOf('«slow:2700» first'), 5_000);
  const ahead = await pool.acquire(() => true);
  await expect(ahead.run(requestOf('other'), 5_000)).rejects.toMatchObject({ kind: 'not_started' });
  await first;
  const again = await pool.acquire(() => false);
  expect((await again.run(requestOf('again'), 5_000)).results).toHaveLength(1);
});
