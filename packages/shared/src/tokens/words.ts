import * as z from 'zod';

/** What decides whether words can be counted one by one. */
const fileSchema = z.object({
  model: z.object({ type: z.string().nullish() }),
  normalizer: z.object({ type: z.string() }).nullish(),
  pre_tokenizer: z.object({ type: z.string() }).nullish(),
  added_tokens: z.array(z.object({ content: z.string() })).nullish(),
});

/**
 * Whether the tokens of a text are those of its words: with BERT's normalizer and pre-tokenizer. Tokenizers of other kinds
 * (byte-level BPE, Unigram) must be given the whole text, since a token may reach across a space.
 * @param file content of the model's tokenizer.json, parsed
 */
export function dividesIntoWords(file: unknown): boolean {
  const { model, normalizer, pre_tokenizer: preTokenizer, added_tokens: added } = fileSchema.parse(file);
  return (
    model.type === 'WordPiece' &&
    normalizer?.type === 'BertNormalizer' &&
    preTokenizer?.type === 'BertPreTokenizer' &&
    (added ?? []).every(({ content }) => !/\s/.test(content))
  );
}

/**
 * The words of a text, divided at spaces, tabs and line feeds alone: other white space may be removed first, which joins the
 * text on both sides into one word.
 */
export const wordsOf = (text: string): string[] => text.split(/[ \t\n]+/).filter((word) => word !== '');

const MAX_WORDS = 50_000;
/** Longer words rarely occur again. */
const MAX_WORD_CHARS = 32;

/** Numbers of tokens of words. When it is full, the oldest entry is removed. */
export class WordCache {
  #counts = new Map<string, number>();

  get(word: string): number | undefined {
    return this.#counts.get(word);
  }

  set(word: string, tokens: number): void {
    if (word.length > MAX_WORD_CHARS) return;
    // The first word of a map is the oldest.
    if (this.#counts.size >= MAX_WORDS) this.#counts.delete(this.#counts.keys().next().value ?? '');
    // A copy, since V8 would keep the whole text alive for a part of it.
    this.#counts.set(Buffer.from(word).toString(), tokens);
  }
}
