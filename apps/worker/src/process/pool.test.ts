import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, test } from '@jest/globals';
import { modelSpecs, readSettings } from '@sluice/shared';
import { silentLog } from '../../../../tests/harness.js';
import { loadMessage } from '../served/servedModel.js';
import { Pool } from './pool.js';
import { ModelProcess, type RunError } from './supervisor.js';

const faulty = fileURLToPath(new URL('../../../../tests/faulty/process.mjs', import.meta.url));
let pool: Pool;
let launches: number;
afterEach(() => pool.close());

/** A pool of one process, whose runs of marked texts are slow or hang. */
async function start(): Promise<void> {
  const [spec] = modelSpecs(readSettings({ MODEL: 'minilm-l6-sst2' }));
  if (!('folder' in spec.source)) throw new Error('The bundled model has a folder');
  const load = { ...loadMessage(spec, spec.source.folder), measure: false };
  launches = 0;
  pool = new Pool({
    size: 1,
    launch: () => {
      launches++;
      return new ModelProcess([process.execPath, faulty], load, 30_000);
    },
    log: silentLog,
    onBroken: () => {},
  });
  process.env.DATA_DIR ??= '/nowhere';
  await pool.start();
}

const requestOf = (text: string) => ({
  rows: [{ text }],
  parameters: { truncation_direction: 'right' as const },
});

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
});

test('a process whose slow run ends after all is used again', async () => {
  await start();
  const slow = await pool.acquire(() => true);
  const first = slow.run(requestOf('«slow:900» first'), 1_500);
  const ahead = await pool.acquire(() => true);
  await expect(ahead.run(requestOf('other'), 5_000)).rejects.toMatchObject({ kind: 'not_started' });
  await first;
  const again = await pool.acquire(() => false);
  expect((await again.run(requestOf('again'), 5_000)).results).toHaveLength(1);
});
