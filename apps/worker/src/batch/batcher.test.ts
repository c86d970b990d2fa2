import { expect, test } from '@jest/globals';
import { nextLane, nextMicroBatch } from './batcher.js';

const waiting = (...tokens: number[]) => tokens.map((count, order) => ({ tokens: count, order }));
const lengths = (batch: { tokens: number }[]) => batch.map(({ tokens }) => tokens);

test('takes what waits, and does not wait for more', () => {
  expect(nextMicroBatch([], { texts: 8, tokens: 1024 })).toEqual([]);
  expect(lengths(nextMicroBatch(waiting(9), { texts: 8, tokens: 1024 }))).toEqual([9]);
  expect(lengths(nextMicroBatch(waiting(9, 7, 8), { texts: 8, tokens: 1024 }))).toEqual([7, 8, 9]);
});

test('groups the oldest with those of about its length', () => {
  const batch = nextMicroBatch(waiting(10, 400, 11, 390, 9, 410), { texts: 3, tokens: 4096 });
  expect(lengths(batch)).toEqual([9, 10, 11]);
});

test('always takes the oldest along, however odd its length', () => {
  const batch = nextMicroBatch(waiting(14, 10, 10, 10, 10), { texts: 2, tokens: 4096 });
  expect(batch.map(({ order }) => order)).toContain(0);
});

test('keeps to the limit in tokens, padding included', () => {
  const batch = nextMicroBatch(waiting(100, 100, 100, 100, 100), { texts: 8, tokens: 300 });
  expect(lengths(batch)).toEqual([100, 100, 100]);
  const odd = nextMicroBatch(waiting(10, 100, 100), { texts: 8, tokens: 250 });
  expect(odd.length * Math.max(...lengths(odd))).toBeLessThanOrEqual(250);
});

test('runs a text that is over the limit in tokens alone', () => {
  expect(lengths(nextMicroBatch(waiting(512, 5, 6), { texts: 8, tokens: 256 }))).toEqual([512]);
});

test('sends each text exactly once', () => {
  let left = waiting(...Array.from({ length: 100 }, (_, i) => (i * 37) % 200));
  const seen: number[] = [];
  while (left.length > 0) {
    const batch = nextMicroBatch(left, { texts: 8, tokens: 1024 });
    expect(batch).toContain(left[0]);
    seen.push(...batch.map(({ order }) => order));
    left = left.filter((item) => !batch.includes(item));
  }
  expect(seen.sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, i) => i));
});

test('texts of unlike length run apart, even where there is room', () => {
  expect(lengths(nextMicroBatch(waiting(10, 50, 11), { texts: 8, tokens: 1024 }))).toEqual([10, 11]);
  expect(lengths(nextMicroBatch(waiting(50, 10, 11), { texts: 8, tokens: 1024 }))).toEqual([50]);
});

test('of all ways to run what waits, the cheapest is taken', () => {
  const limits = { texts: 3, tokens: 100 };
  const cost = (tokens: readonly number[]) => 12 + tokens.length * Math.max(...tokens);
  /** The cheapest of all ways to cut a list that is in order, by trying each. */
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
    const batch = lengths(nextMicroBatch(waiting(...tokens), limits));
    const rest = [...tokens].sort((a, b) => a - b);
    const total = cheapest(rest);
    for (const taken of batch) rest.splice(rest.indexOf(taken), 1);
    expect(cost(batch) + cheapest(rest)).toBe(total);
  }
});

test('interactive goes first, but for one micro-batch in eight when bulk waits too', () => {
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

test('a lane where nothing waits takes nothing from the other', () => {
  expect(nextLane({ interactive: 5, bulk: 0 }, 100)).toBe('interactive');
  expect(nextLane({ interactive: 0, bulk: 5 }, 0)).toBe('bulk');
});
