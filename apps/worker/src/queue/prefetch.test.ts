import { expect, test } from '@jest/globals';
import { Prefetch } from './prefetch.js';

const prefetch = (processes: number, fleetProcesses: number, unansweredRows: number) => {
  const share = new Prefetch({ processes, microBatchRows: 8, fleetProcesses: () => fleetProcesses });
  share.record(unansweredRows);
  return share.maxRows;
};

test('a worker holds its share of all rows, from two to four micro-batches per process', () => {
  // One of two workers with a process each.
  expect(prefetch(1, 2, 0)).toBe(16);
  expect(prefetch(1, 2, 48)).toBe(24);
  expect(prefetch(1, 2, 1_000)).toBe(32);
  // Three processes of four.
  expect(prefetch(3, 4, 100)).toBe(75);
  // It is alone, or its own heartbeat has not been read yet.
  expect(prefetch(2, 2, 1)).toBe(64);
  expect(prefetch(2, 0, 1)).toBe(64);
});
