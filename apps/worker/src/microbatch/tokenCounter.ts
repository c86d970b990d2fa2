import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Tokenizer } from '@huggingface/tokenizers';
import { dividesIntoWords, WordCache, wordsOf } from '@sluice/shared';
import type { Row } from '@sluice/tasks';

/** Rows with more UTF-8 bytes are estimated: they are rare, near the model's maximum, and would block the event loop. */
const MAX_COUNTED_BYTES = 2_048;
/** UTF-8 bytes per token, for the estimate: 4.4 in English, 3 for a Chinese character. */
const BYTES_PER_TOKEN = 4;

/**
 * Creates a function that counts the tokens of a row as the model runs it: at most the model's maximum. It is exact up
 * to {@link MAX_COUNTED_BYTES}. An estimate by bytes is off by 4 tokens of 25, and micro-batches chosen by it hold 10 % more
 * padding.
 * @param folder of the model
 */
export function createTokenCounter(folder: string, maxTokens: number): (row: Row) => number {
  const exact = exactCounterOf(folder);
  const count = (row: Row): number => {
    const bytes = Buffer.byteLength(row.text) + Buffer.byteLength(row.pair ?? '');
    if (exact && bytes <= MAX_COUNTED_BYTES) {
      try {
        return exact(row);
      } catch {
        // The model process will report the error; the length is only a hint here.
      }
    }
    return bytes / BYTES_PER_TOKEN;
  };
  return (row) => Math.max(1, Math.min(maxTokens, Math.ceil(count(row))));
}

/** Creates a function that estimates the same from the number of bytes, which takes no time. */
export function createTokenEstimate(maxTokens: number): (row: Row) => number {
  return ({ text, pair = '' }) =>
    Math.max(1, Math.min(maxTokens, Math.ceil((text.length + pair.length) / BYTES_PER_TOKEN)));
}

/** Counts with the tokenizer of a model; undefined if this library does not support it. */
function exactCounterOf(folder: string): ((row: Row) => number) | undefined {
  try {
    const file: object = JSON.parse(readFileSync(join(folder, 'tokenizer.json'), 'utf8'));
    const tokenizer = new Tokenizer(file, {});
    const whole = ({ text, pair }: Row) =>
      tokenizer.encode(text, pair === undefined ? {} : { text_pair: pair }).ids.length;
    if (!dividesIntoWords(file)) return whole;
    const plain = (text: string) => tokenizer.encode(text, { add_special_tokens: false }).ids.length;
    // The library treats an empty second text as no second text.
    const special = {
      single: whole({ text: 'a' }) - plain('a'),
      pair: whole({ text: 'a', pair: 'a' }) - 2 * plain('a'),
    };
    const cache = new WordCache();
    const countWord = (word: string) => {
      const known = cache.get(word);
      if (known !== undefined) return known;
      const tokens = plain(word);
      cache.set(word, tokens);
      return tokens;
    };
    const countText = (text: string) => wordsOf(text).reduce((sum, word) => sum + countWord(word), 0);
    return ({ text, pair }) =>
      pair === undefined
        ? countText(text) + special.single
        : countText(text) + countText(pair) + special.pair;
  } catch {
    // The model process has loaded it with another library; the length is only a hint here.
    return undefined;
  }
}
