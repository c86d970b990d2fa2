import { expect, test } from '@jest/globals';
import { createLog } from '@sluice/shared';
import type { Lease, Pool } from '../process/pool.js';
import { RunError } from '../process/supervisor.js';
import { Pending, type PendingRows } from './pending.js';
import { Throughput } from './throughput.js';

/** A pool of one process that answers when the test says so. A run fails if one of its texts is `bad`. */
function poolOf(ran: string[]) {
  const waiting: (() => void)[] = [];
  const lease: Lease = {
    run: async ({ rows }) => {
      const texts = rows.map(({ text }) => text);
      ran.push(texts.join(' '));
      if (texts.includes('bad')) throw new RunError('refused', 'bad');
      const results = rows.map(() => ({ raw: 0, tokens: 1, truncated: false }));
      return { results, startedMs: 0, ms: 1, inProcess: { startedMs: 0, endedMs: 1, pid: undefined } };
    },
    release: () => {},
  };
  const acquire = () => new Promise<Lease>((resolve) => waiting.push(() => resolve(lease)));
  return { pool: { acquire, acquireAgain: acquire } as unknown as Pool, answer: () => waiting.shift()?.() };
}

const pendingOf = (pool: Pool, rows: number) =>
  new Pending({
    pool,
    limits: { rows, tokens: 100, runCostTokens: 1 },
    budgetMs: () => 1_000,
    throughput: new Throughput(1),
    onRun: () => {},
    log: createLog('test', { LOG_LEVEL: 'silent', LOG_FORMAT: 'json' }),
  });

const rowsOf = (text: string, part = 0, settle: PendingRows['settle'] = () => {}): PendingRows => ({
  id: text,
  rows: [{ text }],
  tokens: 1,
  parameters: { truncation_direction: 'right' },
  group: '',
  part,
  contents: text,
  spans: [],
  expired: () => false,
  settle,
});

const turn = () => new Promise((resolve) => setImmediate(resolve));

test('the parts of an item with many rows do not hold up items that arrive after it', async () => {
  const ran: string[] = [];
  const { pool, answer } = poolOf(ran);
  const pending = pendingOf(pool, 1);
  for (let part = 0; part < 5; part++) pending.add('interactive', rowsOf(`large-${part}`, part));
  const step = async () => {
    answer();
    await turn();
  };
  await step();
  await step();
  pending.add('interactive', rowsOf('small'));
  for (let i = 0; i < 4; i++) await step();
  expect(ran).toEqual(['large-0', 'large-1', 'large-2', 'small', 'large-3', 'large-4']);
});

test('equal items run once and get the same results; if the item that ran gets none, the equal ones run too', async () => {
  const ran: string[] = [];
  const settled: string[] = [];
  const { pool, answer } = poolOf(ran);
  const pending = pendingOf(pool, 8);
  for (const [i, text] of ['good', 'bad', 'good', 'bad', 'good'].entries())
    pending.add(
      'interactive',
      rowsOf(text, 0, ({ kind }) => settled.push(`${i} ${kind}`)),
    );
  for (let i = 0; i < 20; i++) {
    answer();
    await turn();
  }
  expect(ran.filter((texts) => texts === 'good')).toHaveLength(1);
  expect(ran.filter((texts) => texts === 'bad').length).toBeGreaterThanOrEqual(2);
  expect(settled.sort()).toEqual(['0 ran', '1 failed', '2 ran', '3 failed', '4 ran']);
});
