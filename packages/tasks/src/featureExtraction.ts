import * as z from 'zod';
import { float32Schema, RESULT_BYTES, sharedParameters, type Task } from './task.js';

const parametersSchema = z.strictObject({
  normalize: z
    .boolean()
    .optional()
    .meta({ description: "Whether the vector has length 1; the model's own setting if not given" }),
  dimensions: z.int().min(1).optional().meta({
    description: 'Keep only the first dimensions; a normalized vector is then normalized again',
  }),
  pooling: z.literal('none').optional().meta({
    description:
      '`none`: a vector for each token, neither pooled nor normalized, instead of one for the text',
  }),
  prompt_name: z
    .string()
    .optional()
    .meta({ description: 'The prompt of the model that precedes the text, such as `query`' }),
  ...sharedParameters,
});

const factsSchema = z.object({
  dimensions: z.int().min(1),
  /** How the vectors of the tokens become one. */
  pooling: z.string(),
  /** Whether vectors have length 1 if a request does not say. */
  normalize: z.boolean(),
  /** Texts that precede an input, by name. */
  prompts: z.record(z.string(), z.string()),
  /** The name of the prompt that precedes an input if a request does not name one. */
  defaultPrompt: z.string().optional(),
});

/** The vector of a text. */
export const vectorSchema = float32Schema.refine((vector) => vector.every(Number.isFinite), 'not finite');

/** Vector size assumed until a worker has reported it. */
const UNKNOWN_DIMENSIONS = 768;
/**
 * Bytes of a stored number, with Redis's own cost: 100,000 vectors of 384 dimensions took 179 MB, where their float32 values
 * are 154.
 */
const FLOAT_BYTES = 4.7;
const SPECIAL_TOKENS = 2;
/** As PyTorch's `normalize`, so that a vector of zeros stays one. */
const MIN_LENGTH = 1e-12;

function normalized(vector: Float32Array): Float32Array {
  let squares = 0;
  for (const value of vector) squares += value * value;
  const length = Math.max(Math.sqrt(squares), MIN_LENGTH);
  return vector.map((value) => value / length);
}

/** A vector for a text: its embedding. */
export const featureExtraction = {
  name: 'feature-extraction',
  input: z.string('not a text'),
  parameters: parametersSchema,
  /** A vector, or with the pooling `none` a vector for each token. */
  output: z.union([vectorSchema, z.array(vectorSchema).min(1)]),
  facts: factsSchema,
  /** The pooled vector, neither cut nor normalized; with the pooling `none` those of all tokens. */
  raw: z.union([float32Schema, z.array(float32Schema).min(1)]),
  texts: (text) => [{ path: [], text }],
  rows(text, { prompt_name: promptName }, facts) {
    const prompt = facts?.prompts[promptName ?? facts.defaultPrompt ?? ''] ?? '';
    return [{ text: `${prompt}${text}` }];
  },
  mayTruncate: ({ truncate }) => truncate,
  runParameters: ({ truncation_direction, pooling }) => ({
    truncation_direction,
    ...(pooling ? { pooling } : {}),
  }),
  combine([vector = new Float32Array()], _text, { normalize, dimensions }, facts) {
    if (Array.isArray(vector)) return vector.map((one) => one.slice(0, dimensions));
    const kept = dimensions === undefined ? vector : vector.slice(0, dimensions);
    return (normalize ?? facts.normalize) ? normalized(kept) : kept;
  },
  wrongParameter({ dimensions, prompt_name: promptName }, facts) {
    if (dimensions !== undefined && dimensions > facts.dimensions)
      return { name: 'dimensions', detail: `The model has ${facts.dimensions} dimensions` };
    const names = Object.keys(facts.prompts);
    if (promptName !== undefined && !names.includes(promptName))
      return {
        name: 'prompt_name',
        detail:
          names.length === 0
            ? 'The model has no prompts'
            : `The prompts of the model are: ${names.join(', ')}`,
      };
    return undefined;
  },
  resultBytes: (_text, { dimensions }, facts) =>
    RESULT_BYTES + FLOAT_BYTES * (dimensions ?? facts?.dimensions ?? UNKNOWN_DIMENSIONS),
  outputNumbers: (text, { dimensions, pooling }, facts) =>
    pooling === 'none'
      ? (text.length + SPECIAL_TOKENS) * (dimensions ?? facts?.dimensions ?? UNKNOWN_DIMENSIONS)
      : 0,
  difference(one, other) {
    if (Array.isArray(one) || Array.isArray(other)) return Number.POSITIVE_INFINITY;
    if (one.length !== other.length) return Number.POSITIVE_INFINITY;
    return one.reduce(
      (largest, value, i) => Math.max(largest, Math.abs(value - (other[i] ?? Number.NaN))),
      0,
    );
  },
} as const satisfies Task<
  string,
  z.infer<typeof parametersSchema>,
  Float32Array | Float32Array[],
  z.infer<typeof factsSchema>,
  Float32Array | Float32Array[]
>;
