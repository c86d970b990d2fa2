import { expect, test } from '@jest/globals';
import { readCpuFlags, sessionOptionsFor } from './sessionOptions.js';

const safe = { intraOpNumThreads: 1, extra: { session: { x64quantprecision: '1' } } };
const fast = { intraOpNumThreads: 1 };

test.each([
  ['x64 without VNNI', 'x64', new Set(['avx2', 'fma']), safe],
  ['x64 with unknown flags', 'x64', undefined, safe],
  ['x64 with AVX-512 VNNI', 'x64', new Set(['avx2', 'avx512_vnni']), fast],
  ['x64 with AVX VNNI', 'x64', new Set(['avx2', 'avx_vnni']), fast],
  ['arm64', 'arm64', undefined, fast],
])('%s', (_, arch, flags, options) => {
  expect(sessionOptionsFor(arch, flags)).toEqual(options);
});

test('flags that cannot be read are undefined', () => {
  expect(readCpuFlags('/nowhere/cpuinfo')).toBeUndefined();
});
