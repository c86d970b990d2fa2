import { expect, test } from '@jest/globals';
import { redactUrls } from './log.js';

test('credentials of URLs are removed anywhere in a text', () => {
  expect(redactUrls('connect redis://user:pass@host:6379/0 failed')).toBe(
    'connect redis://***@host:6379/0 failed',
  );
  for (const secret of ['ss/w#rd', 'a@b', 'a?b@c/d', ':@/@'])
    expect(redactUrls(`redis://:${secret}@host:1/0 failed`)).toBe('redis://***@host:1/0 failed');
  expect(redactUrls('rediss://:secret@host')).toBe('rediss://***@host');
  expect(redactUrls('http://localhost:8000/docs')).toBe('http://localhost:8000/docs');
});
