import { expect, test } from '@jest/globals';
import { estimateTokens, nextLane, nextMicroBatch } from './batcher.js';

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
  const batch = nextMicroBatch(waiting(500, 10, 10, 10, 10), { texts: 2, tokens: 4096 });
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

test('estimates the tokens of a text, at most those it is cut to', () => {
  expect(estimateTokens('I loved it', 512)).toBe(5);
  expect(estimateTokens('x'.repeat(10_000), 512)).toBe(512);
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
