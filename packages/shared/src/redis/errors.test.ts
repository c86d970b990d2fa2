import { expect, test } from '@jest/globals';
import { isFailover, isStorageFull } from './errors.js';

test('an error is recognized by its message, or by that of a cause', () => {
  const full = new Error('OOM command not allowed when used memory > maxmemory');
  const discarded = Object.assign(new Error('EXECABORT Transaction discarded'), { previousErrors: [full] });
  expect([full, discarded, new Error('WRONGTYPE')].map(isStorageFull)).toEqual([true, true, false]);
  expect(isFailover(new Error("READONLY You can't write against a read only replica."))).toBe(true);
});

test('an error may be among its own causes', () => {
  const closed = Object.assign(new Error('Connection is closed'), { previousErrors: [] as unknown[] });
  closed.previousErrors.push(closed);
  expect(isStorageFull(closed)).toBe(false);
});
