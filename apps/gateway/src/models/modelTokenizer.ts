import { setImmediate } from 'node:timers/promises';
import { dividesIntoWords, WordCache, wordsOf } from '@sluice/shared';
import type { Row } from '@sluice/tasks';
import { Tokenizer } from 'tokenizers';

/** A token of a text. */
export interface Token {
  id: number;
  text: string;
  /** Whether the tokenizer added it. */
  special: boolean;
  /** Where it is in the text, in Unicode characters; null for a special token. */
  start: number | null;
  stop: number | null;
}

/** Texts that are counted before other requests go on. */
const TEXTS_AT_ONCE = 32;

/**
 * The tokenizer of a model, to count and show tokens as the model reads them.
 *
 * If the tokens of a text are those of its words, the counts of words are cached; otherwise the whole text is counted.
 */
export class ModelTokenizer {
  #tokenizer: Tokenizer;
  /** Tokens of each word; undefined if the tokenizer does not divide texts into words. */
  #words: WordCache | undefined;
  /** Special tokens of a text, and of a pair. */
  #special: Promise<{ single: number; pair: number }>;

  /** @param json content of the model's tokenizer.json @throws Error if the library does not read it */
  constructor(json: string) {
    this.#tokenizer = Tokenizer.fromString(json);
    this.#tokenizer.disablePadding();
    this.#tokenizer.disableTruncation();
    this.#words = dividesIntoWords(JSON.parse(json)) ? new WordCache() : undefined;
    this.#special = Promise.all([this.#tokenizer.encode('', null), this.#tokenizer.encode('', '')]).then(
      ([single, pair]) => ({ single: single.getLength(), pair: pair.getLength() }),
    );
    this.#special.catch(() => {});
  }

  /**
   * How many tokens the model reads of some rows. The texts of a pair are encoded one by one, so each text is counted once,
   * however often it is repeated.
   * @param maxTokens of the model, at which a row is cut
   */
  async count(rows: readonly Row[], maxTokens: number): Promise<number> {
    const texts = [
      ...new Set(rows.flatMap(({ text, pair }) => (pair === undefined ? [text] : [text, pair]))),
    ];
    const counts = new Map<string, number>();
    for (let i = 0; i < texts.length; i += TEXTS_AT_ONCE) {
      const some = texts.slice(i, i + TEXTS_AT_ONCE);
      const found = this.#words ? await this.#countWords(some, this.#words) : await this.#lengths(some);
      for (const [j, text] of some.entries()) counts.set(text, found[j] ?? 0);
    }
    const special = await this.#special;
    const countOf = (text: string) => counts.get(text) ?? 0;
    return rows.reduce((sum, { text, pair }) => {
      const tokens =
        pair === undefined ? countOf(text) + special.single : countOf(text) + countOf(pair) + special.pair;
      return sum + Math.min(tokens, maxTokens);
    }, 0);
  }

  /** The tokens of a text. */
  async tokens(text: string, addSpecialTokens: boolean): Promise<Token[]> {
    const encoding = await this.#tokenizer.encode(text, null, { addSpecialTokens });
    const characters = Array.from(text);
    const [offsets, names, special] = [
      encoding.getOffsets(),
      encoding.getTokens(),
      encoding.getSpecialTokensMask(),
    ];
    return encoding.getIds().map((id, i) => {
      if (special[i] === 1) return { id, text: names[i] ?? '', special: true, start: null, stop: null };
      const [start = 0, stop = 0] = offsets[i] ?? [];
      return { id, text: characters.slice(start, stop).join(''), special: false, start, stop };
    });
  }

  /** Tokens of each text, without special ones. */
  async #lengths(texts: readonly string[]): Promise<number[]> {
    const encodings = await this.#tokenizer.encodeBatch([...texts], { addSpecialTokens: false });
    return encodings.map((encoding) => encoding.getLength());
  }

  /** The same from the counts of the words. */
  async #countWords(texts: readonly string[], cached: WordCache): Promise<number[]> {
    const words = texts.map(wordsOf);
    // Other calls may evict words meanwhile, so this one keeps its own counts.
    const counts = new Map<string, number>();
    const missing: string[] = [];
    for (const word of new Set(words.flat())) {
      const count = cached.get(word);
      if (count === undefined) missing.push(word);
      else counts.set(word, count);
    }
    // Other requests go on, also if nothing is missing.
    const lengths = missing.length > 0 ? await this.#lengths(missing) : await setImmediate([]);
    for (const [i, word] of missing.entries()) {
      counts.set(word, lengths[i] ?? 0);
      cached.set(word, lengths[i] ?? 0);
    }
    return words.map((each) => each.reduce((sum, word) => sum + (counts.get(word) ?? 0), 0));
  }
}
