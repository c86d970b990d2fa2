import { expect, test } from '@jest/globals';
import { presentedKey } from './authenticate.js';

test.each([
  [{ 'x-api-key': ['abc'] }, 'abc'],
  [{ authorization: ['Bearer abc'] }, 'abc'],
  [{ authorization: ['bearer   abc '] }, 'abc'],
  [{ 'x-api-key': ['my secret key'] }, 'my secret key'],
  [{ 'x-api-key': ['abc'], authorization: ['Bearer abc'] }, 'abc'],
  [{ 'x-api-key': ['abc', 'abc'] }, 'abc'],
  [{ 'x-api-key': ['abc'], authorization: ['Basic dXNlcg=='] }, 'abc'],
  [{ 'x-api-key': [Buffer.from('clé', 'utf8').toString('latin1')] }, 'clé'],
])('takes the key of %j', (headers, key) => {
  expect(presentedKey(headers)).toBe(key);
});

test.each([
  [{}, 'Not authenticated'],
  [{ 'x-api-key': [''] }, 'Not authenticated'],
  [{ authorization: ['Basic dXNlcg=='] }, 'Not authenticated'],
  [{ authorization: ['Bearer'] }, 'Not authenticated'],
  [{ 'x-api-key': ['abc'], authorization: ['Bearer def'] }, 'The request carries different keys'],
  [{ 'x-api-key': ['abc', 'def'] }, 'The request carries different keys'],
])('refuses %j', (headers, detail) => {
  expect(() => presentedKey(headers)).toThrow(detail);
});
