import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Dtype, dtypeSchema, ModelError } from '@sluice/shared';
import * as z from 'zod';

/** The end of the file name of the weights for each dtype, as transformers.js names them. */
const SUFFIXES: Readonly<Record<Dtype, string>> = {
  fp32: '',
  fp16: '_fp16',
  q8: '_quantized',
  int8: '_int8',
  uint8: '_uint8',
  q4: '_q4',
  q4f16: '_q4f16',
  bnb4: '_bnb4',
};

/** The path of a model's weights, in a model's folder. */
const weightsFile = (dtype: Dtype): string => `onnx/model${SUFFIXES[dtype]}.onnx`;

/** The dtypes for which a list of files has weights. */
const dtypesIn = (files: readonly string[]): Dtype[] =>
  dtypeSchema.options.filter((dtype) => files.includes(weightsFile(dtype)));

/** What follows the name of the graph in that of a file beside it. */
const BESIDE = /^[._][\w.-]*$/;

/** The files of some list that hold weights of a dtype: the graph, and files beside it such as `model.onnx_data`. */
export const weightsAmong = (files: readonly string[], dtype: Dtype): string[] => {
  const graph = weightsFile(dtype);
  return files.filter(
    (file) => file === graph || (file.startsWith(graph) && BESIDE.test(file.slice(graph.length))),
  );
};

/** @throws ModelError `dtype_not_found` if there are no weights of this dtype among some files */
export function requireWeights(dtype: Dtype, files: readonly string[]): void {
  if (files.includes(weightsFile(dtype))) return;
  const found = dtypesIn(files);
  throw new ModelError(
    'dtype_not_found',
    found.length > 0
      ? `there are no weights of dtype ${dtype} (${weightsFile(dtype)}); set "dtype" to one of: ${found.join(', ')}`
      : `there are no weights of any dtype, such as ${weightsFile(dtype)}`,
  );
}

/** A folder with the files of a model, in the layout of the Hugging Face Hub. */
export class ModelFolder {
  constructor(readonly path: string) {}

  /** The names of its files in the folder itself and in `onnx/`. */
  files(): string[] {
    const list = (folder: string) =>
      existsSync(join(this.path, folder)) ? readdirSync(join(this.path, folder)) : [];
    return [...list('.'), ...list('onnx').map((file) => `onnx/${file}`)];
  }

  has(file: string): boolean {
    return existsSync(join(this.path, file));
  }

  /**
   * Reads a JSON file with a schema. Returns undefined if there is no such file.
   * @throws ModelError `file_corrupt` that names the file
   */
  read<T extends z.ZodType>(file: string, schema: T): z.infer<T> | undefined {
    if (!this.has(file)) return undefined;
    const path = join(this.path, file);
    let value: unknown;
    try {
      value = JSON.parse(readFileSync(path, 'utf8'));
    } catch {
      throw new ModelError('file_corrupt', `${path} is not valid JSON`);
    }
    const parsed = schema.safeParse(value);
    if (parsed.success) return parsed.data;
    const [issue] = parsed.error.issues;
    throw new ModelError('file_corrupt', `${path}: "${issue?.path.join('.')}": ${issue?.message}`);
  }

  /** The same for a file that a model must have. @throws ModelError `file_missing` */
  require<T extends z.ZodType>(file: string, schema: T): z.infer<T> {
    const value = this.read(file, schema);
    if (value !== undefined) return value;
    throw new ModelError('file_missing', `${join(this.path, file)} is missing`);
  }
}

const count = z.number().optional().catch(undefined);

/** What Sluice reads of `config.json`. */
export const configSchema = z.object({
  model_type: z.string().optional(),
  max_position_embeddings: count,
  pad_token_id: count,
  problem_type: z.string().nullish().catch(undefined),
});
export type ModelConfig = z.infer<typeof configSchema>;

/** A special token is a string, or an object that contains one. */
const specialToken = z
  .union([z.string(), z.object({ content: z.string() }).transform(({ content }) => content)])
  .nullish();

/** What Sluice reads of `tokenizer_config.json` and `special_tokens_map.json`. */
export const tokenizerConfigSchema = z.object({
  model_max_length: count,
  pad_token: specialToken,
  unk_token: specialToken,
});

/** What Sluice reads of `tokenizer.json`, besides what the tokenizer library reads. */
export const tokenizerSchema = z.object({
  model: z.object({
    type: z.string().optional(),
    continuing_subword_prefix: z.string().nullish(),
    unk_token: z.string().nullish(),
    unk_id: z.number().nullish(),
  }),
});

/** What Sluice reads of the files of sentence-transformers. */
export const sentenceBertSchema = z.object({ max_seq_length: z.number().nullish() });
