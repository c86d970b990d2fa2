import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { Tokenizer } from 'tokenizers';
import { root } from '../../../../tests/harness.js';
import { ModelTokenizer } from './modelTokenizer.js';

const MAX_TOKENS = 64;
const fileOf = (model: string) =>
  readFileSync(join(root, 'tests/reference/models', model, 'tokenizer.json'), 'utf8');

/** Texts with what divides words, joins them, and disappears in them. */
const piece = fc.constantFrom(
  ...[
    'the',
    'Bridge',
    'café',
    'cafe\u0301',
    '[SEP]',
    '[MASK]',
    'a[SEP]b',
    '不错',
    '👍🏽',
    'ﬁn',
    'İ',
    'ß',
    'ΟΔΟΣ',
  ],
  ...[
    ' ',
    '  ',
    '\n',
    '\t',
    '\r',
    '\u0085',
    '\u00a0',
    '\u2028',
    '\u200b',
    '\u00ad',
    '\u0301',
    '\ufffd',
    '\u0000',
  ],
  ...['.', '!?', "'s", '-', '_', '##', '…'],
  'x'.repeat(120),
);
const text = fc.oneof(
  fc.array(piece, { minLength: 1, maxLength: 12 }).map((pieces) => pieces.join('')),
  fc.string({ unit: 'grapheme', minLength: 1, maxLength: 60 }),
);

test.each(['bert-labels', 'roberta-nli'])(
  'the tokens of rows are those that the tokenizer of %s gives, cut at the maximum',
  async (model) => {
    const tokenizer = new ModelTokenizer(fileOf(model));
    const expected = Tokenizer.fromString(fileOf(model));
    expected.disablePadding();
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ text, pair: fc.option(text, { nil: undefined }) }), {
          minLength: 1,
          maxLength: 4,
        }),
        async (given) => {
          const rows = given.map(({ text: first, pair }) =>
            pair === undefined ? { text: first } : { text: first, pair },
          );
          expected.setTruncation(MAX_TOKENS);
          const encodings = await Promise.all(rows.map((row) => expected.encode(row.text, row.pair ?? null)));
          const tokens = encodings.reduce((sum, encoding) => sum + encoding.getLength(), 0);
          expect(await tokenizer.count(rows, MAX_TOKENS)).toBe(tokens);
        },
      ),
      { numRuns: 500, seed: 1 },
    );
  },
);

test('counts stay correct after words are evicted from the cache, also in concurrent calls', async () => {
  const tokenizer = new ModelTokenizer(fileOf('bert-labels'));
  const row = (i: number) => ({ text: `${i} ${i + 1} ${i + 2}` });
  const count = async (i: number) => tokenizer.count([row(i)], 1_000);
  const before = await Promise.all([1, 2, 3].map(count));
  await Promise.all(
    Array.from({ length: 30 }, (_, i) =>
      tokenizer.count([{ text: Array.from({ length: 2_000 }, (_word, j) => `${i}-${j}`).join(' ') }], 1e6),
    ),
  );
  expect(await Promise.all([1, 2, 3].map(count))).toEqual(before);
});
