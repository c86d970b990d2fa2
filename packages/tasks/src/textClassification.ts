import * as z from 'zod';
import { labelScoreDifference, labelScoreSchema, ranked, sigmoid, softmax } from './labelScore.js';
import {
  bytesOf,
  float32Schema,
  LABEL_SCORE_BYTES,
  RESULT_BYTES,
  sharedParameters,
  type Task,
  UNKNOWN_LABEL_BYTES,
} from './task.js';

const inputSchema = z.union([z.string(), z.object({ text: z.string(), text_pair: z.string() })], {
  error: 'neither a text nor {"text", "text_pair"}',
});

const functionSchema = z.enum(['softmax', 'sigmoid', 'none']);

const parametersSchema = z.strictObject({
  top_k: z
    .int()
    .min(1)
    .optional()
    .meta({ description: 'How many labels to return, best first; all of them if not given' }),
  function_to_apply: functionSchema.optional().meta({
    description: 'What turns the outputs of the model into scores; if not given, what the model is made for',
  }),
  ...sharedParameters,
});

const factsSchema = z.object({
  /** In the order of the model's outputs. */
  labels: z.array(z.string()).min(1),
  /** What turns the model's outputs into scores if a request does not say. */
  functionToApply: functionSchema,
});

const functions = { softmax, sigmoid, none: (logits: Float32Array) => logits } as const;

/** Labels with scores for a text or a pair of texts, such as its sentiment. */
export const textClassification = {
  name: 'text-classification',
  input: inputSchema,
  parameters: parametersSchema,
  /** Labels, best first. */
  output: z.array(labelScoreSchema).min(1),
  facts: factsSchema,
  /** The model's outputs, one for each label. */
  raw: float32Schema,
  texts: (input) =>
    typeof input === 'string'
      ? [{ path: [], text: input }]
      : [
          { path: ['text'], text: input.text },
          { path: ['text_pair'], text: input.text_pair },
        ],
  rows: (input) => [
    typeof input === 'string' ? { text: input } : { text: input.text, pair: input.text_pair },
  ],
  mayTruncate: ({ truncate }) => truncate,
  runParameters: ({ truncation_direction }) => ({ truncation_direction }),
  combine([logits = new Float32Array()], _input, { top_k: topK, function_to_apply: apply }, facts) {
    const scores = functions[apply ?? facts.functionToApply](logits);
    return ranked(facts.labels, scores).slice(0, topK);
  },
  wrongParameter: () => undefined,
  resultBytes(_input, { top_k: topK }, facts) {
    const lengths = facts?.labels.map(bytesOf) ?? [UNKNOWN_LABEL_BYTES];
    const count = Math.min(topK ?? lengths.length, lengths.length);
    return RESULT_BYTES + count * (LABEL_SCORE_BYTES + Math.max(...lengths));
  },
  difference: labelScoreDifference,
} as const satisfies Task<
  z.infer<typeof inputSchema>,
  z.infer<typeof parametersSchema>,
  z.infer<typeof labelScoreSchema>[],
  z.infer<typeof factsSchema>,
  Float32Array
>;
