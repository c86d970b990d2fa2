import { ModelError, type Pooling, poolingSchema } from '@sluice/shared';
import * as z from 'zod';
import type { LoadMessage } from '../../process/protocol.js';
import type { ModelFolder } from '../folder.js';
import { tokenValuesOf } from '../sequenceModel.js';
import { type LoadTaskModel, PROBE_TEXTS, resultOf } from '../taskModel.js';

const [WARM_UP] = PROBE_TEXTS;
/** Names of the tensor with a vector for each token. */
const TENSORS = ['last_hidden_state', 'token_embeddings'];

const modulesSchema = z.array(z.object({ path: z.string(), type: z.string() }));
/** `1_Pooling/config.json`, in the older form of one flag for each way, or the newer one. */
const poolingConfigSchema = z.object({
  pooling_mode: z.union([z.string(), z.array(z.string())]).optional(),
  pooling_mode_cls_token: z.boolean().optional(),
  pooling_mode_mean_tokens: z.boolean().optional(),
  pooling_mode_max_tokens: z.boolean().optional(),
  pooling_mode_lasttoken: z.boolean().optional(),
  pooling_mode_mean_sqrt_len_tokens: z.boolean().optional(),
  pooling_mode_weightedmean_tokens: z.boolean().optional(),
  include_prompt: z.boolean().optional(),
});
const promptsConfigSchema = z.object({
  prompts: z.record(z.string(), z.string()).nullish(),
  default_prompt_name: z.string().nullish(),
});

const unsupported = (what: string) =>
  new ModelError('not_supported', `its sentence-transformers files ask for ${what}`);

/** How a vector is made of those of the tokens, as the files of sentence-transformers say. */
function readModules(folder: ModelFolder): { pooling?: Pooling; normalize?: boolean } {
  const modules = folder.read('modules.json', modulesSchema);
  // Without modules.json, a folder named 1_Pooling is what sentence-transformers writes.
  const found =
    modules ?? (folder.has('1_Pooling/config.json') ? [{ path: '1_Pooling', type: 'Pooling' }] : []);
  let pooling: Pooling | undefined;
  for (const { type, path } of found) {
    const name = type.split('.').at(-1);
    if (name === 'Pooling') pooling = readPooling(folder, `${path}/config.json`);
    else if (name !== 'Transformer' && name !== 'Normalize') throw unsupported(`the module ${name}`);
  }
  return {
    ...(pooling ? { pooling } : {}),
    ...(modules ? { normalize: modules.some(({ type }) => type.endsWith('Normalize')) } : {}),
  };
}

function readPooling(folder: ModelFolder, file: string): Pooling {
  const config = folder.require(file, poolingConfigSchema);
  if (config.include_prompt === false) throw unsupported('pooling without the prompt');
  const { pooling_mode: mode } = config;
  const modes = mode === undefined ? [] : [mode].flat();
  const flags: [boolean | undefined, string][] = [
    [config.pooling_mode_cls_token, 'cls'],
    [config.pooling_mode_mean_tokens, 'mean'],
    [config.pooling_mode_max_tokens, 'max'],
    [config.pooling_mode_lasttoken, 'last_token'],
    [config.pooling_mode_mean_sqrt_len_tokens, 'mean_sqrt_len'],
    [config.pooling_mode_weightedmean_tokens, 'weighted_mean'],
  ];
  const wanted = modes.length > 0 ? modes : flags.flatMap(([isSet, name]) => (isSet ? [name] : []));
  const name = wanted[0] === 'lasttoken' ? 'last_token' : wanted[0];
  const pooling = poolingSchema.safeParse(name);
  if (wanted.length === 1 && pooling.success) return pooling.data;
  throw unsupported(
    `pooling by ${wanted.join(' and ') || 'nothing'}; Sluice has ${poolingSchema.options.join(', ')}`,
  );
}

/** Settings of the operator, else those of the model's files. @throws ModelError `settings_needed` */
function settingsOf(folder: ModelFolder, message: LoadMessage) {
  const files = message.pooling === undefined || message.normalize === undefined ? readModules(folder) : {};
  const pooling = message.pooling ?? files.pooling;
  const normalize = message.normalize ?? files.normalize;
  if (pooling === undefined || normalize === undefined)
    throw new ModelError(
      'settings_needed',
      'its files do not say how to make a vector (there is no modules.json of sentence-transformers): set "pooling" ' +
        `(${poolingSchema.options.join(', ')}) and "normalize" (true or false) of the model in models.json`,
    );
  const prompts = folder.read('config_sentence_transformers.json', promptsConfigSchema);
  return {
    pooling,
    normalize,
    prompts: message.prompts ?? prompts?.prompts ?? {},
    defaultPrompt: prompts?.default_prompt_name ?? undefined,
  };
}

/** Embeddings: the vectors of the tokens, pooled. */
export const loadFeatureExtraction: LoadTaskModel = async (model, message) => {
  const { pooling, normalize, prompts, defaultPrompt } = settingsOf(model.folder, message);
  if (defaultPrompt !== undefined && !(defaultPrompt in prompts))
    throw new ModelError('file_corrupt', `the default prompt "${defaultPrompt}" is not among the prompts`);
  const warmUp = await model.run([{ text: WARM_UP }], { direction: 'right', strategy: 'longest_first' });
  const dimensions = tokenValuesOf(warmUp, TENSORS).size;
  return {
    facts: {
      dimensions,
      pooling,
      normalize,
      prompts,
      ...(defaultPrompt === undefined ? {} : { defaultPrompt }),
    },
    probes: { inputs: PROBE_TEXTS, parameters: {} },
    async run(rows, { truncation_direction: direction, pooling: asked }) {
      const output = await model.run(rows, { direction, strategy: 'longest_first' });
      const { values, size } = tokenValuesOf(output, TENSORS);
      return output.rows.map((row, i) => {
        const start = i * output.length * size;
        const vectors = values.subarray(start, start + row.tokens * size);
        return resultOf(row, asked === 'none' ? eachOf(vectors, size) : pooled(vectors, size, pooling));
      });
    },
  };
};

/** The vector of each token. */
const eachOf = (values: Float32Array, size: number): Float32Array[] =>
  Array.from({ length: values.length / size }, (_, i) => values.slice(i * size, (i + 1) * size));

/**
 * Pools the vectors of a row's tokens; the padding is not among them.
 * @param values one vector after the other
 * @param size of each
 */
function pooled(values: Float32Array, size: number, pooling: Pooling): Float32Array {
  switch (pooling) {
    case 'cls':
      return values.slice(0, size);
    case 'last_token':
      return values.slice(values.length - size);
    case 'max': {
      const most = values.slice(0, size);
      for (const [i, value] of values.entries()) most[i % size] = Math.max(most[i % size] ?? value, value);
      return most;
    }
    case 'mean': {
      const sums = new Float64Array(size);
      for (const [i, value] of values.entries()) sums[i % size] = (sums[i % size] ?? 0) + value;
      return Float32Array.from(sums, (sum) => sum / (values.length / size));
    }
  }
}
