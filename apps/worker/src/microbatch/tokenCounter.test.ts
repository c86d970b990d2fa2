import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { rootFolder } from '@sluice/shared';
import { Tokenizer } from 'tokenizers';
import { createTokenCounter } from './tokenCounter.js';

const folder = join(rootFolder, 'models/minilm-l6-sst2');
const count = createTokenCounter(folder, 512);
const countTokens = (text: string) => count({ text });

test('counts like the tokenizer of the model, with special tokens', () => {
  expect(countTokens('good')).toBe(3);
  expect(countTokens('good good, bad')).toBe(6);
  // One word of several tokens.
  expect(countTokens('unflinchingly')).toBeGreaterThan(3);
  expect(countTokens('好评')).toBe(4);
  expect(count({ text: 'good', pair: 'bad' })).toBe(5);
});

test('the counts of real sentences, alone and in pairs, are those of the tokenizer that the model uses', async () => {
  const tokenizer = Tokenizer.fromString(readFileSync(join(folder, 'tokenizer.json'), 'utf8'));
  tokenizer.disablePadding();
  tokenizer.disableTruncation();
  const sentences = readFileSync(join(rootFolder, 'bench/sentences.txt'), 'utf8').trim().split('\n');
  for (const [i, text] of sentences.entries()) {
    const pair = sentences[i + 1] ?? 'the end';
    expect(count({ text })).toBe((await tokenizer.encode(text, null)).getLength());
    expect(count({ text, pair })).toBe((await tokenizer.encode(text, pair)).getLength());
  }
});

test('a row has at most the maximum number of tokens', () => {
  expect(countTokens('good '.repeat(400))).toBe(402);
  expect(countTokens('x, '.repeat(680))).toBe(512);
  expect(countTokens('x'.repeat(10_000))).toBe(512);
});

test('without a usable tokenizer the count is estimated from the bytes', () => {
  expect(createTokenCounter('nowhere', 512)({ text: 'I loved it, really' })).toBe(5);
});
