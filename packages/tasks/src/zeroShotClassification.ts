import * as z from 'zod';
import { labelScoreDifference, labelScoreSchema, ranked, softmax } from './labelScore.js';
import {
  bytesOf,
  float32Schema,
  LABEL_SCORE_BYTES,
  RESULT_BYTES,
  sharedParameters,
  type Task,
} from './task.js';

/** Maximum number of labels; each is a row. */
const MAX_LABELS = 100;
const PLACE = '{}';

const parametersSchema = z.strictObject({
  candidate_labels: z
    .array(z.string().regex(/\S/, 'A label is empty or only white space'), {
      error: `It must be a list of 1 to ${MAX_LABELS} labels`,
    })
    .min(1)
    .max(MAX_LABELS)
    .refine((labels) => new Set(labels).size === labels.length, 'A label is present twice')
    .meta({ description: 'The labels to choose from, none twice', uniqueItems: true }),
  multi_label: z.boolean().default(false).meta({
    description:
      'Whether several labels may be true: each is scored by itself, instead of against the others',
  }),
  hypothesis_template: z
    .string()
    .refine((template) => template.split(PLACE).length === 2, `It must contain ${PLACE} once, for the label`)
    .default('This example is {}.')
    .meta({ description: `A sentence with ${PLACE} in the place of the label` }),
  ...sharedParameters,
});

/** Positions in the model's outputs. */
const factsSchema = z.object({ entailment: z.int().min(0), contradiction: z.int().min(0) });

/**
 * Scores for labels that the request makes up: how well the text entails a sentence with the label, as the pipeline of
 * Python's transformers computes it.
 */
export const zeroShotClassification = {
  name: 'zero-shot-classification',
  input: z.string('not a text'),
  parameters: parametersSchema,
  /** Labels, best first. */
  output: z.array(labelScoreSchema).min(1),
  facts: factsSchema,
  /** The outputs of the natural language inference model for the text and one label. */
  raw: float32Schema,
  texts: (text) => [{ path: [], text }],
  rows: (text, { candidate_labels: labels, hypothesis_template: template }) => {
    // Not String.replace, which would interpret "$&" in a label.
    const [before = '', after = ''] = template.split(PLACE);
    return labels.map((label) => ({ text, pair: `${before}${label}${after}` }));
  },
  mayTruncate: ({ truncate }) => truncate,
  runParameters: ({ truncation_direction }) => ({ truncation_direction, truncation: 'only_first' }),
  combine(raws, _text, { candidate_labels: labels, multi_label: multiLabel }, { entailment, contradiction }) {
    const at = (logits: Float32Array, index: number) => logits[index] ?? Number.NaN;
    // With one label there is nothing to compare it with.
    const scores =
      multiLabel || labels.length === 1
        ? raws.map((logits) => softmax(Float32Array.of(at(logits, contradiction), at(logits, entailment)))[1])
        : softmax(Float32Array.from(raws, (logits) => at(logits, entailment)));
    return ranked(
      labels,
      Float32Array.from(scores, (score) => score ?? Number.NaN),
    );
  },
  wrongParameter: () => undefined,
  resultBytes: (_input, { candidate_labels: labels }) =>
    RESULT_BYTES + labels.reduce((sum, label) => sum + LABEL_SCORE_BYTES + bytesOf(label), 0),
  difference: labelScoreDifference,
} as const satisfies Task<
  string,
  z.infer<typeof parametersSchema>,
  z.infer<typeof labelScoreSchema>[],
  z.infer<typeof factsSchema>,
  Float32Array
>;
