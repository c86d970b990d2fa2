import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { rootFolder } from '@sluice/shared';
import { createTokenCounter } from './tokenCounter.js';

const count = createTokenCounter(join(rootFolder, 'models/minilm-l6-sst2'), 512);
const countTokens = (text: string) => count({ text });

test('counts like the tokenizer of the model, with special tokens', () => {
  expect(countTokens('good')).toBe(3);
  expect(countTokens('good good, bad')).toBe(6);
  // One word of several tokens.
  expect(countTokens('unflinchingly')).toBeGreaterThan(3);
  expect(countTokens('好评')).toBe(4);
  expect(count({ text: 'good', pair: 'bad' })).toBe(5);
});

test('a row has at most the maximum number of tokens', () => {
  expect(countTokens('good '.repeat(400))).toBe(402);
  expect(countTokens('x, '.repeat(680))).toBe(512);
  expect(countTokens('x'.repeat(10_000))).toBe(512);
});

test('without a usable tokenizer the count is estimated from the bytes', () => {
  expect(createTokenCounter('nowhere', 512)({ text: 'I loved it, really' })).toBe(5);
});
