import { expect, test } from '@jest/globals';
import { nextLane, nextMicroBatch } from './batcher.js';

const rows = (count: number): unknown[] => Array.from({ length: count });
const pending = (...tokens: number[]) =>
  tokens.map((count, order) => ({ tokens: count, rows: rows(1), group: '{}', order }));
const lengths = (items: { tokens: number }[] | undefined) => items?.map(({ tokens }) => tokens) ?? [];
const limit = (rows: number, tokens: number) => ({ rows, tokens, runCostTokens: 12 });

test('the batcher takes the pending items and does not wait for more', () => {
  expect(nextMicroBatch([], limit(8, 1024))).toBeUndefined();
  expect(lengths(nextMicroBatch(pending(9), limit(8, 1024)))).toEqual([9]);
  expect(lengths(nextMicroBatch(pending(9, 7, 8), limit(8, 1024)))).toEqual([7, 8, 9]);
});

test('the batcher groups the oldest item with items of similar length', () => {
  const microBatch = nextMicroBatch(pending(10, 400, 11, 390, 9, 410), limit(3, 4096));
  expect(lengths(microBatch)).toEqual([9, 10, 11]);
});

test('the batcher always includes the oldest item, whatever its length', () => {
  const microBatch = nextMicroBatch(pending(14, 10, 10, 10, 10), limit(2, 4096));
  expect(microBatch?.map(({ order }) => order)).toContain(0);
});

test('the batcher keeps the limit of tokens, padding included', () => {
  const microBatch = nextMicroBatch(pending(100, 100, 100, 100, 100), limit(8, 300));
  expect(lengths(microBatch)).toEqual([100, 100, 100]);
  const mixed = lengths(nextMicroBatch(pending(10, 100, 100), limit(8, 250)));
  expect(mixed.length * Math.max(...mixed)).toBeLessThanOrEqual(250);
});

test('the batcher runs an item alone that exceeds the limit of tokens', () => {
  expect(lengths(nextMicroBatch(pending(512, 5, 6), limit(8, 256)))).toEqual([512]);
});

test('the batcher returns each item exactly once', () => {
  let left = pending(...Array.from({ length: 100 }, (_, i) => (i * 37) % 200));
  const seen: number[] = [];
  while (left.length > 0) {
    const microBatch: typeof left = nextMicroBatch(left, limit(8, 1024)) ?? [];
    expect(microBatch).toContain(left[0]);
    seen.push(...microBatch.map(({ order }) => order));
    left = left.filter((item) => !microBatch.includes(item));
  }
  expect(seen.sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, i) => i));
});

test('items of different length run apart, even below the limits', () => {
  expect(lengths(nextMicroBatch(pending(10, 50, 11), limit(8, 1024)))).toEqual([10, 11]);
  expect(lengths(nextMicroBatch(pending(50, 10, 11), limit(8, 1024)))).toEqual([50]);
});

test('of all ways to run the pending items the cheapest is taken', () => {
  const limits = limit(3, 100);
  const cost = (tokens: readonly number[]) => 12 + tokens.length * Math.max(...tokens);
  /** The least cost of all ways to cut a sorted list, found by trying each. */
  const cheapest = (sorted: readonly number[]): number =>
    sorted.length === 0
      ? 0
      : Math.min(
          ...[1, 2, 3]
            .filter(
              (count) => count <= sorted.length && (count === 1 || count * (sorted[count - 1] ?? 0) <= 100),
            )
            .map((count) => cost(sorted.slice(0, count)) + cheapest(sorted.slice(count))),
        );
  for (let seed = 1; seed <= 50; seed++) {
    const tokens = Array.from({ length: 9 }, (_, i) => 5 + ((seed * 7919 + i * i * 104_729) % 45));
    const microBatch = lengths(nextMicroBatch(pending(...tokens), limits));
    const rest = [...tokens].sort((a, b) => a - b);
    const total = cheapest(rest);
    for (const taken of microBatch) rest.splice(rest.indexOf(taken), 1);
    expect(cost(microBatch) + cheapest(rest)).toBe(total);
  }
});

test('the bulk lane has one micro-batch in eight while interactive items are pending', () => {
  const drawn: string[] = [];
  let sinceBulk = 0;
  for (let i = 0; i < 24; i++) {
    const lane = nextLane({ interactive: 5, bulk: 5 }, sinceBulk);
    sinceBulk = lane === 'bulk' ? 0 : sinceBulk + 1;
    drawn.push(lane);
  }
  expect(drawn.filter((lane) => lane === 'bulk')).toHaveLength(3);
  expect(drawn.indexOf('bulk')).toBe(7);
});

test('an empty lane takes nothing from the other', () => {
  expect(nextLane({ interactive: 5, bulk: 0 }, 100)).toBe('interactive');
  expect(nextLane({ interactive: 0, bulk: 5 }, 0)).toBe('bulk');
});

test('items with different run parameters never share a micro-batch', () => {
  const items = pending(10, 10, 10, 10).map((item, i) => ({ ...item, group: i % 2 ? 'odd' : 'even' }));
  expect(nextMicroBatch(items, limit(8, 1024))?.map(({ group }) => group)).toEqual(['even', 'even']);
  expect(nextMicroBatch(items.slice(1), limit(8, 1024))?.map(({ group }) => group)).toEqual(['odd', 'odd']);
});

test('the limits count rows, and an item with more rows than a micro-batch may have runs alone', () => {
  const items = (...counts: number[]) =>
    pending(...counts.map(() => 10)).map((item, i) => ({ ...item, rows: rows(counts[i] ?? 1) }));
  const rowsOf = (items: { rows: unknown[] }[] | undefined) => items?.map((item) => item.rows.length);
  expect(rowsOf(nextMicroBatch(items(3, 3, 3), limit(6, 1024)))).toEqual([3, 3]);
  expect(rowsOf(nextMicroBatch(items(3, 3, 3), limit(8, 30)))).toEqual([3]);
  expect(rowsOf(nextMicroBatch(items(20, 1, 1), limit(8, 1024)))).toEqual([20]);
});

test('the higher the cost of a run, the more padding is accepted', () => {
  const items = pending(10, 50);
  expect(lengths(nextMicroBatch(items, { ...limit(8, 1024), runCostTokens: 30 }))).toEqual([10]);
  expect(lengths(nextMicroBatch(items, { ...limit(8, 1024), runCostTokens: 50 }))).toEqual([10, 50]);
});
