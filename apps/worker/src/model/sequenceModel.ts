import { basename, dirname } from 'node:path';
import { ModelError } from '@sluice/shared';
import type { Row } from '@sluice/tasks';
import { AutoModel, env, type PreTrainedModel, Tensor } from '@xenova/transformers';
import * as z from 'zod';
import type { LoadMessage } from '../process/protocol.js';
import { configSchema, type ModelConfig, ModelFolder, requireWeights, sentenceBertSchema } from './folder.js';
import { type EncodedRow, RowTokenizer, type Truncation } from './tokenizer.js';

/** Maximum number of tokens for a model whose files name none. */
const DEFAULT_MAX_TOKENS = 512;
/**
 * Models of RoBERTa's kind count positions from the one after the padding token's, so the table of positions has two
 * entries that no token uses (https://github.com/huggingface/transformers/issues/1363).
 */
const OFFSET_POSITIONS: ReadonlySet<string> = new Set([
  'camembert',
  'data2vec-text',
  'ibert',
  'longformer',
  'mpnet',
  'roberta',
  'roberta-prelayernorm',
  'xlm-roberta',
  'xlm-roberta-xl',
  'xmod',
]);
const UNUSED_POSITIONS = 2;

/** What a model returns for rows that ran together. */
export interface RunOutput {
  rows: readonly EncodedRow[];
  /** Tokens of each row with its padding. */
  length: number;
  /** The tensors that the graph returns, by name. */
  tensors: Readonly<Record<string, Tensor>>;
}

const sessionsSchema = z.record(z.string(), z.object({ inputNames: z.array(z.string()) }));
const tensorsSchema = z.record(z.string(), z.instanceof(Tensor));

/** A model that reads sequences of tokens, whatever its task. */
export class SequenceModel {
  readonly folder: ModelFolder;
  readonly config: ModelConfig;
  readonly tokenizer: RowTokenizer;
  /** Maximum number of tokens of a row. */
  readonly maxTokens: number;
  #model: PreTrainedModel;
  #hasTypeIds: boolean;

  private constructor(
    folder: ModelFolder,
    config: ModelConfig,
    tokenizer: RowTokenizer,
    maxTokens: number,
    model: PreTrainedModel,
  ) {
    this.folder = folder;
    this.config = config;
    this.tokenizer = tokenizer;
    this.maxTokens = maxTokens;
    tokenizer.maxTokens = maxTokens;
    this.#model = model;
    const inputs = Object.values(sessionsSchema.parse(model.sessions)).flatMap(
      ({ inputNames }) => inputNames,
    );
    this.#hasTypeIds = inputs.includes('token_type_ids');
  }

  /** Loads the model of a folder. @throws ModelError */
  static async load({ folder: path, dtype, sessionOptions, maxTokens }: LoadMessage): Promise<SequenceModel> {
    const folder = new ModelFolder(path);
    const config = folder.require('config.json', configSchema);
    const tokenizer = new RowTokenizer(folder, config);
    const longest = maxTokensOf(folder, config, tokenizer, maxTokens);
    requireWeights(dtype, folder.files());
    env.localModelPath = dirname(path);
    env.allowLocalModels = true;
    env.allowRemoteModels = false;
    const model = await AutoModel.from_pretrained(basename(path), {
      dtype,
      session_options: sessionOptions,
      local_files_only: true,
    });
    return new SequenceModel(folder, config, tokenizer, longest, model);
  }

  /**
   * Runs rows together, padded on the right to the longest one.
   * @throws Error if they cannot run together: the tokenizer has no padding token, or the graph takes one row
   */
  async run(rows: readonly Row[], truncation: Truncation): Promise<RunOutput> {
    const encoded = await this.tokenizer.encode(rows, truncation);
    const length = Math.max(...encoded.map(({ tokens }) => tokens));
    const { padId } = this.tokenizer;
    if (padId === undefined && encoded.some(({ tokens }) => tokens < length))
      throw new Error('The tokenizer has no padding token, so rows of different length cannot run together');
    const fill = (padding: number, valuesOf: (row: EncodedRow) => readonly number[]) => {
      const values = new BigInt64Array(encoded.length * length).fill(BigInt(padding));
      for (const [i, row] of encoded.entries())
        for (const [j, value] of valuesOf(row).entries()) values[i * length + j] = BigInt(value);
      return new Tensor('int64', values, [encoded.length, length]);
    };
    const tensors = tensorsSchema.parse(
      await this.#model({
        input_ids: fill(padId ?? 0, ({ ids }) => ids),
        attention_mask: fill(0, ({ ids }) => ids.map(() => 1)),
        ...(this.#hasTypeIds ? { token_type_ids: fill(0, ({ encoding }) => encoding.getTypeIds()) } : {}),
      }),
    );
    return { rows: encoded, length, tensors };
  }
}

/**
 * The longest row: the smallest of the limits that the files and the operator name.
 * @throws ModelError `max_tokens_too_large`
 */
function maxTokensOf(
  folder: ModelFolder,
  { max_position_embeddings: positions, model_type: type = '' }: ModelConfig,
  tokenizer: RowTokenizer,
  configured: number | undefined,
): number {
  const unused = OFFSET_POSITIONS.has(type) ? UNUSED_POSITIONS : 0;
  // Models with relative positions write -1 or nothing.
  const usablePositions = positions !== undefined && positions > unused ? positions - unused : undefined;
  if (configured !== undefined && usablePositions !== undefined && configured > usablePositions) {
    throw new ModelError(
      'max_tokens_too_large',
      `max_tokens: ${configured} is more than the ${usablePositions} positions of the model`,
    );
  }
  const sentence = folder.read('sentence_bert_config.json', sentenceBertSchema);
  const limits = [sentence?.max_seq_length, tokenizer.modelMaxLength, usablePositions, configured].filter(
    (limit) => limit != null && limit > 0,
  );
  return limits.length === 0 ? DEFAULT_MAX_TOKENS : Math.min(...limits.map(Number));
}

/** The numbers of a tensor as float32. */
function floats(tensor: Tensor): Float32Array {
  const { data } = tensor.type === 'float32' ? tensor : tensor.to('float32');
  return data instanceof Float32Array ? data : Float32Array.from(data, Number);
}

/**
 * The outputs of a model with a head on the whole row: one vector for each row.
 * @throws ModelError `not_supported`
 */
export function logitsOf({ tensors, rows }: RunOutput): Float32Array[] {
  const tensor = tensors.logits ?? Object.values(tensors)[0];
  if (tensor === undefined || tensor.dims.length !== 2)
    throw new ModelError('not_supported', 'its graph does not return one vector of logits for each row');
  const values = floats(tensor);
  const size = tensor.dims[1] ?? 0;
  return rows.map((_, i) => values.slice(i * size, (i + 1) * size));
}

/**
 * The outputs of a model with values for each token.
 * @param names of the tensor, the preferred one first; else any with three dimensions
 * @throws ModelError `not_supported`
 */
export function tokenValuesOf(
  { tensors }: RunOutput,
  names: readonly string[],
): { values: Float32Array; size: number } {
  const candidates = [...names.map((name) => tensors[name]), ...Object.values(tensors)];
  const tensor = candidates.find((candidate) => candidate?.dims.length === 3);
  if (tensor === undefined)
    throw new ModelError('not_supported', 'its graph does not return a vector for each token');
  return { values: floats(tensor), size: tensor.dims[2] ?? 0 };
}
