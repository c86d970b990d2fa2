import { readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { rootFolder } from '@sluice/shared';
import { createCountTokens } from './tokens.js';

const read = (file: string) =>
  JSON.parse(readFileSync(`${rootFolder}/models/minilm-l6-sst2/${file}`, 'utf8'));
const facts = { maxTokens: 512, labels: ['a', 'b'], runtime: 'none' };
const countTokens = createCountTokens({
  ...facts,
  tokenizer: { json: read('tokenizer.json'), config: read('tokenizer_config.json') },
});

test('counts as the tokenizer of the model does, with the tokens that it adds', () => {
  expect(countTokens('good')).toBe(3);
  expect(countTokens('good good, bad')).toBe(6);
  // Two pieces of one word.
  expect(countTokens('unflinchingly')).toBeGreaterThan(3);
  expect(countTokens('好评')).toBe(4);
});

test('a text has at most the tokens that it is cut to', () => {
  expect(countTokens('good '.repeat(400))).toBe(402);
  expect(countTokens('x, '.repeat(680))).toBe(512);
  expect(countTokens('x'.repeat(10_000))).toBe(512);
});

test('without a tokenizer, length in bytes tells about how many there are', () => {
  expect(createCountTokens(facts)('I loved it, really')).toBe(5);
});
