import { expect, test } from '@jest/globals';
import { createLog } from '@sluice/shared';
import { processesThatFit } from './memory.js';

const log = createLog('test', { LOG_LEVEL: 'silent', LOG_FORMAT: 'json' });
const fit = (
  processes: number,
  weightsMegabytes: number,
  availableMegabytes: number,
  reservedMegabytes = 0,
) =>
  processesThatFit(
    { processes },
    weightsMegabytes * 1e6,
    { availableBytes: availableMegabytes * 1e6, reservedBytes: reservedMegabytes * 1e6 },
    log,
  );

test('the processes of a model are those that fit into memory', () => {
  expect(fit(4, 24, 8_000)).toBe(4);
  // 264 MB each, and nine tenths of the memory may be used.
  expect(fit(4, 24, 800)).toBe(2);
  expect(fit(4, 24, 300)).toBe(1);
  // A process of each other model is left room for, but this one has at least one.
  expect(fit(4, 24, 1_600, 500)).toBe(3);
  expect(fit(4, 24, 800, 700)).toBe(1);
  expect(() => fit(4, 24, 290)).toThrow(/a process needs about 264 MB, and 290 MB are available/);
});
