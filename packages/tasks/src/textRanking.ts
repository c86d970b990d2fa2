import * as z from 'zod';
import { sigmoid } from './labelScore.js';
import { float32Schema, RESULT_BYTES, sharedParameters, type Task } from './task.js';

const inputSchema = z.object(
  { query: z.string(), texts: z.array(z.string()).min(1) },
  { error: 'not {"query", "texts"}' },
);

const parametersSchema = z.strictObject({
  raw_scores: z
    .boolean()
    .default(false)
    .meta({ description: "Whether scores are the model's outputs, instead of values from 0 to 1" }),
  top_n: z
    .int()
    .min(1)
    .optional()
    .meta({ description: 'How many texts to return, best first; all if not given' }),
  ...sharedParameters,
});

const rankSchema = z.object({ index: z.int().min(0), score: z.number() });

/** A text: its fields and two numbers. */
const RANK_BYTES = 26;
/** Number of texts assumed for an unknown input. */
const USUAL_TEXTS = 10;

/** How relevant texts are for a query, with a cross-encoder: each text is a row with the query. */
export const textRanking = {
  name: 'text-ranking',
  input: inputSchema,
  parameters: parametersSchema,
  /** Texts by their index in the input, best first. */
  output: z.array(rankSchema).min(1),
  facts: z.object({}),
  /** The model's one output. */
  raw: float32Schema,
  texts: ({ query, texts }) => [
    { path: ['query'], text: query },
    ...texts.map((text, i) => ({ path: ['texts', i], text })),
  ],
  rows: ({ query, texts }) => texts.map((pair) => ({ text: query, pair })),
  mayTruncate: ({ truncate }) => truncate,
  runParameters: ({ truncation_direction }) => ({ truncation_direction }),
  combine(raws, _input, { raw_scores: rawScores, top_n: topN }) {
    const logits = Float32Array.from(raws, ([logit = Number.NaN]) => logit);
    const scores = rawScores ? logits : sigmoid(logits);
    return Array.from(scores, (score, index) => ({ index, score }))
      .sort((one, other) => other.score - one.score)
      .slice(0, topN);
  },
  wrongParameter: () => undefined,
  resultBytes: (input, { top_n: topN }) =>
    RESULT_BYTES +
    RANK_BYTES * Math.min(topN ?? Number.POSITIVE_INFINITY, input?.texts.length ?? USUAL_TEXTS),
  difference(one, other) {
    const scores = new Map(other.map(({ index, score }) => [index, score]));
    return Math.max(
      ...one.map(({ index, score }) => Math.abs(score - (scores.get(index) ?? Number.POSITIVE_INFINITY))),
    );
  },
} as const satisfies Task<
  z.infer<typeof inputSchema>,
  z.infer<typeof parametersSchema>,
  z.infer<typeof rankSchema>[],
  Record<string, never>,
  Float32Array
>;
