import { expect, test } from '@jest/globals';
import { rateLimitHeaders } from './headers.js';

test('the header fields list every window and describe the tightest', () => {
  const minute = { limit: 10, windowSeconds: 60, remaining: 9, resetMs: 59_001, taken: 1, tick: 1 };
  const day = { limit: 1000, windowSeconds: 86_400, remaining: 4, resetMs: 3_600_000, taken: 1, tick: 1 };
  expect(rateLimitHeaders([minute])).toEqual({
    'RateLimit-Policy': '"default";q=10;w=60',
    RateLimit: '"default";r=9;t=60',
  });
  expect(rateLimitHeaders([minute, day])).toEqual({
    'RateLimit-Policy': '"default";q=10;w=60, "86400s";q=1000;w=86400',
    RateLimit: '"86400s";r=4;t=3600',
  });
});
