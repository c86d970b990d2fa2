import { expect, test } from '@jest/globals';
import { redactUrls } from './log.js';

test('credentials of a URL are taken out wherever it stands', () => {
  expect(redactUrls('connect redis://user:pass@host:6379/0 failed')).toBe(
    'connect redis://***@host:6379/0 failed',
  );
  expect(redactUrls('rediss://:secret@host')).toBe('rediss://***@host');
  expect(redactUrls('http://localhost:8000/docs')).toBe('http://localhost:8000/docs');
});
