import { expect, test } from '@jest/globals';
import { keyOf } from './authenticate.js';

test.each([
  [{ 'x-api-key': ['abc'] }, 'abc'],
  [{ authorization: ['Bearer abc'] }, 'abc'],
  [{ authorization: ['bearer   abc '] }, 'abc'],
  [{ 'x-api-key': ['my secret key'] }, 'my secret key'],
  [{ 'x-api-key': ['abc'], authorization: ['Bearer abc'] }, 'abc'],
  [{ 'x-api-key': ['abc', 'abc'] }, 'abc'],
  [{ 'x-api-key': ['abc'], authorization: ['Basic dXNlcg=='] }, 'abc'],
  [{ 'x-api-key': [Buffer.from('clé', 'utf8').toString('latin1')] }, 'clé'],
])('finds the key in %j', (headers, key) => {
  expect(keyOf(headers)).toBe(key);
});

test.each([
  [{}, 'Not authenticated'],
  [{ 'x-api-key': [''] }, 'Not authenticated'],
  [{ authorization: ['Basic dXNlcg=='] }, 'Not authenticated'],
  [{ authorization: ['Bearer'] }, 'Not authenticated'],
  [{ 'x-api-key': ['abc'], authorization: ['Bearer def'] }, 'The request contains different keys'],
  [{ 'x-api-key': ['abc', 'def'] }, 'The request contains different keys'],
])('refuses %j', (headers, detail) => {
  expect(() => keyOf(headers)).toThrow(detail);
});
