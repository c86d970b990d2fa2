import { join } from 'node:path';
import { ModelError } from '@sluice/shared';
import type { Row } from '@sluice/tasks';
import { type Encoding, Tokenizer, type TruncationStrategy } from 'tokenizers';
import { type ModelConfig, type ModelFolder, tokenizerConfigSchema, tokenizerSchema } from './folder.js';

/** A row as the model reads it. */
export interface EncodedRow {
  encoding: Encoding;
  ids: readonly number[];
  /** Tokens that the model reads, after the cut. */
  tokens: number;
  /** Whether the row was cut. */
  truncated: boolean;
}

/** How the rows of a run are cut. */
export interface Truncation {
  direction: 'left' | 'right';
  /** `only_first` cuts the first text of a pair; `longest_first` cuts the longer one. */
  strategy: 'longest_first' | 'only_first';
}

const STRATEGIES = {
  longest_first: 'LongestFirst',
  only_first: 'OnlyFirst',
} as const satisfies Record<Truncation['strategy'], `${TruncationStrategy}`>;

/** Names of the padding token, for a tokenizer whose files do not name it. */
const USUAL_PADS = ['[PAD]', '<pad>', '<|endoftext|>'];
/** A larger `model_max_length` means that the tokenizer has no maximum; transformers writes 1e30. */
const MAX_USABLE_LENGTH = 1_000_000;

/**
 * Encodes rows with Hugging Face's own tokenizer library, which knows where each token lies in the text, cuts pairs and
 * keeps the special tokens when it cuts.
 */
export class RowTokenizer {
  #tokenizer: Tokenizer;
  #maxTokens = Number.POSITIVE_INFINITY;
  /** Id of the padding token; undefined if the tokenizer has none, so that only rows of equal length can run together. */
  readonly padId: number | undefined;
  readonly unknownId: number | undefined;
  /** Whether tokens that continue a word begin with a mark, as in WordPiece. */
  readonly marksSubwords: boolean;
  /** The usable maximum that the files name. */
  readonly modelMaxLength: number | undefined;

  /** @throws ModelError `file_missing` or `file_corrupt` */
  constructor(folder: ModelFolder, config: ModelConfig) {
    const { model } = folder.require('tokenizer.json', tokenizerSchema);
    const settings = folder.read('tokenizer_config.json', tokenizerConfigSchema);
    const map = folder.read('special_tokens_map.json', tokenizerConfigSchema);
    const path = join(folder.path, 'tokenizer.json');
    try {
      this.#tokenizer = Tokenizer.fromFile(path);
    } catch (error) {
      const reason = error instanceof Error ? error.message.split('\n', 1)[0] : String(error);
      throw new ModelError('file_corrupt', `${path}: ${reason}`);
    }
    this.#tokenizer.disablePadding();
    const idOf = (token: string | null | undefined) =>
      token == null ? undefined : (this.#tokenizer.tokenToId(token) ?? undefined);
    const pads = [settings?.pad_token, map?.pad_token].map(idOf);
    this.padId = [...pads, config.pad_token_id, ...USUAL_PADS.map(idOf)].find((id) => id !== undefined);
    this.unknownId =
      idOf(settings?.unk_token ?? map?.unk_token ?? model.unk_token) ?? model.unk_id ?? undefined;
    // WordPiece has this mark even if the file does not name it.
    this.marksSubwords = Boolean(model.continuing_subword_prefix ?? (model.type === 'WordPiece' && '##'));
    const length = settings?.model_max_length;
    this.modelMaxLength =
      length !== undefined && length >= 1 && length <= MAX_USABLE_LENGTH ? Math.floor(length) : undefined;
  }

  set maxTokens(maxTokens: number) {
    this.#maxTokens = maxTokens;
  }

  async encode(rows: readonly Row[], truncation: Truncation): Promise<EncodedRow[]> {
    const encodings = await this.#encodeAll(rows, truncation).catch((error: unknown) => {
      if (truncation.strategy === 'longest_first') throw error;
      return this.#encodeEach(rows, truncation);
    });
    return encodings.map((encoding) => {
      const ids = encoding.getIds();
      return { encoding, ids, tokens: ids.length, truncated: encoding.getOverflowing().length > 0 };
    });
  }

  token(id: number): string {
    return this.#tokenizer.idToToken(id) ?? '';
  }

  /** Decodes tokens to text. */
  textOf(tokens: readonly string[]): string {
    return this.#tokenizer.getDecoder()?.decode([...tokens]) ?? tokens.join(' ');
  }

  #encodeAll(rows: readonly Row[], { direction, strategy }: Truncation): Promise<Encoding[]> {
    // The declaration has the strategies as a constant enum, whose values cannot be imported.
    const options: object = { direction, strategy: STRATEGIES[strategy] };
    this.#tokenizer.setTruncation(this.#maxTokens, options);
    // The library's batch call does not accept pairs.
    return rows.every(({ pair }) => pair === undefined)
      ? this.#tokenizer.encodeBatch(rows.map(({ text }) => text))
      : Promise.all(rows.map(({ text, pair }) => this.#tokenizer.encode(text, pair ?? null)));
  }

  /** Cuts the second text too if it alone exceeds the maximum. */
  async #encodeEach(rows: readonly Row[], truncation: Truncation): Promise<Encoding[]> {
    const encodings: Encoding[] = [];
    for (const row of rows) {
      const [encoding] = await this.#encodeAll([row], truncation).catch(() =>
        this.#encodeAll([row], { ...truncation, strategy: 'longest_first' }),
      );
      if (encoding) encodings.push(encoding);
    }
    return encodings;
  }
}
