import { expect, test } from '@jest/globals';
import { Throughput } from './throughput.js';

test('throughput counts rows per second of run time, not of elapsed time', () => {
  const throughput = new Throughput(1);
  for (let nowMs = 0; nowMs < 60_000; nowMs += 1_000)
    throughput.record({ lane: 'interactive', rows: 8, busyMs: 16, nowMs });
  expect(throughput.rowsPerSecond).toBeCloseTo(500, 0);
});

test('throughput starts with the estimate, whose weight soon fades', () => {
  const throughput = new Throughput(4);
  expect(throughput.rowsPerSecond).toBe(250);
  for (let nowMs = 0; nowMs < 1_000; nowMs += 10)
    throughput.record({ lane: 'interactive', rows: 8, busyMs: 8, nowMs });
  expect(throughput.rowsPerSecond).toBeGreaterThan(990);
});

test('throughput follows a change, such as to longer rows, within seconds', () => {
  const throughput = new Throughput(1);
  for (let nowMs = 0; nowMs < 10_000; nowMs += 10)
    throughput.record({ lane: 'interactive', rows: 10, busyMs: 10, nowMs });
  for (let nowMs = 10_000; nowMs < 22_000; nowMs += 10)
    throughput.record({ lane: 'interactive', rows: 1, busyMs: 10, nowMs });
  expect(throughput.rowsPerSecond).toBeLessThan(200);
});

test('runs of the bulk lane count only while there are no interactive ones', () => {
  const throughput = new Throughput(10);
  const run = (lane: 'interactive' | 'bulk', busyMs: number, nowMs: number) =>
    throughput.record({ lane, rows: 1, busyMs, nowMs });
  run('bulk', 5, 100_000);
  expect(throughput.rowsPerSecond).toBeCloseTo(200, 0);
  run('interactive', 2, 200_000);
  run('bulk', 50, 201_000);
  expect(throughput.rowsPerSecond).toBeCloseTo(500, 0);
  run('bulk', 50, 300_000);
  expect(throughput.rowsPerSecond).toBeCloseTo(20, 0);
});
