import { z } from 'zod';
import { float32Schema, RESULT_BYTES, sharedParameters, type Task } from './task.js';

const parametersSchema = z.strictObject({
  normalize: z
    .boolean()
    .optional()
    .meta({ description: "Whether the vector has length 1; the model's own setting if not given" }),
  dimensions: z.int().min(1).optional().meta({
    description: 'Keep only the first dimensions; a normalized vector is then normalized again',
  }),
  prompt_name: z
    .string()
    .optional()
    .meta({ description: 'The prompt of the model that precedes the text, such as `query`' }),
  ...sharedParameters,
});

const factsSchema = z.object({
  dimensions: z.int().min(1),
  /** Whether vectors have length 1 if a request does not say. */
  normalize: z.boolean(),
  /** Texts that precede an input, by name. */
  prompts: z.record(z.string(), z.string()),
  /** The name of the prompt that precedes an input if a request does not name one. */
  defaultPrompt: z.string().optional(),
});

/** Vector size assumed until a worker has reported it. */
const UNKNOWN_DIMENSIONS = 768;
/**
 * Bytes of a stored number, with Redis's own cost: 100,000 vectors of 384 dimensions took 179 MB, where their float32 values
 * are 154.
 */
const FLOAT_BYTES = 4.7;
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
  output: float32Schema.refine((vector) => vector.every(Number.isFinite), 'not finite'),
  facts: factsSchema,
  /** The pooled vector, neither cut nor normalized. */
  raw: float32Schema,
  texts: (text) => [{ path: [], text }],
  rows(text, { prompt_name: promptName }, facts) {
    const prompt = facts?.prompts[promptName ?? facts.defaultPrompt ?? ''] ?? '';
    return [{ text: `${prompt}${text}` }];
  },
  mayTruncate: ({ truncate }) => truncate,
  runParameters: ({ truncation_direction }) => ({ truncation_direction }),
  combine([vector = new Float32Array()], _text, { normalize, dimensions }, facts) {
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
  resultBytes: (_input, { dimensions }, facts) =>
    RESULT_BYTES + FLOAT_BYTES * (dimensions ?? facts?.dimensions ?? UNKNOWN_DIMENSIONS),
  difference(one, other) {
    if (one.length !== other.length) return Number.POSITIVE_INFINITY;
    return one.reduce(
      (largest, value, i) => Math.max(largest, Math.abs(value - (other[i] ?? Number.NaN))),
      0,
    );
  },
} as const satisfies Task<
  string,
  z.infer<typeof parametersSchema>,
  Float32Array,
  z.infer<typeof factsSchema>,
  Float32Array
>;
