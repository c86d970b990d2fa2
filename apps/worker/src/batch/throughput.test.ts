import { expect, test } from '@jest/globals';
import { Throughput } from './throughput.js';

test('tells how many texts are answered in a second of work, whatever time goes by in between', () => {
  const throughput = new Throughput(1);
  for (let nowMs = 0; nowMs < 60_000; nowMs += 1_000) throughput.note({ texts: 8, busyMs: 16, nowMs });
  expect(throughput.textsPerSecond).toBeCloseTo(500, 0);
});

test('before the first run it tells the first guess, which soon counts for nothing', () => {
  const throughput = new Throughput(4);
  expect(throughput.textsPerSecond).toBe(250);
  for (let nowMs = 0; nowMs < 1_000; nowMs += 10) throughput.note({ texts: 8, busyMs: 8, nowMs });
  expect(throughput.textsPerSecond).toBeGreaterThan(990);
});

test('follows a change, such as to longer texts, within seconds', () => {
  const throughput = new Throughput(1);
  for (let nowMs = 0; nowMs < 10_000; nowMs += 10) throughput.note({ texts: 10, busyMs: 10, nowMs });
  for (let nowMs = 10_000; nowMs < 22_000; nowMs += 10) throughput.note({ texts: 1, busyMs: 10, nowMs });
  expect(throughput.textsPerSecond).toBeLessThan(200);
});
