import { expect, test } from '@jest/globals';
import { createLog } from '@sluice/shared';
import type { Lease, Pool } from '../process/pool.js';
import { Pending, type PendingRows } from './pending.js';
import { Throughput } from './throughput.js';

/** A pool of one process that answers when the test says so. */
function poolOf(ran: string[]) {
  const waiting: (() => void)[] = [];
  const lease: Lease = {
    run: async ({ rows }) => {
      ran.push(rows.map(({ text }) => text).join(' '));
      return { results: rows.map(() => ({ raw: 0, tokens: 1, truncated: false })), ms: 1 };
    },
    release: () => {},
  };
  const acquire = () => new Promise<Lease>((resolve) => waiting.push(() => resolve(lease)));
  return { pool: { acquire } as unknown as Pool, answer: () => waiting.shift()?.() };
}

test('the parts of an item with many rows do not hold up items that arrive after it', async () => {
  const ran: string[] = [];
  const { pool, answer } = poolOf(ran);
  const pending = new Pending({
    pool,
    limits: { rows: 1, tokens: 100, runCostTokens: 1 },
    budgetMs: () => 1_000,
    throughput: new Throughput(1),
    log: createLog('test', { LOG_LEVEL: 'silent', LOG_FORMAT: 'json' }),
  });
  const rows = (text: string, part = 0): PendingRows => ({
    id: text,
    rows: [{ text }],
    tokens: 1,
    parameters: { truncation_direction: 'right' },
    group: '',
    part,
    key: text,
    expired: () => false,
    settle: () => {},
  });
  for (let part = 0; part < 5; part++) pending.add('interactive', rows(`large-${part}`, part));
  const step = async () => {
    answer();
    await new Promise((resolve) => setImmediate(resolve));
  };
  await step();
  await step();
  pending.add('interactive', rows('small'));
  for (let i = 0; i < 4; i++) await step();
  expect(ran).toEqual(['large-0', 'large-1', 'large-2', 'small', 'large-3', 'large-4']);
});
