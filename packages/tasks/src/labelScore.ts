import * as z from 'zod';

/** A label and the model's score for it, not rounded. */
export const labelScoreSchema = z.object({ label: z.string(), score: z.number() });
export type LabelScore = z.infer<typeof labelScoreSchema>;

/** Labels with their scores, best first; equal scores stay in the order of the labels. */
export function ranked(labels: readonly string[], scores: ArrayLike<number>): LabelScore[] {
  return labels
    .map((label, i) => ({ label, score: scores[i] ?? Number.NaN }))
    .sort((one, other) => other.score - one.score);
}

/** The largest difference between the scores of a label; infinity if the labels differ. */
export function labelScoreDifference(one: readonly LabelScore[], other: readonly LabelScore[]): number {
  const scores = new Map(other.map(({ label, score }) => [label, score]));
  return Math.max(
    one.length === other.length ? 0 : Number.POSITIVE_INFINITY,
    ...one.map(({ label, score }) => Math.abs(score - (scores.get(label) ?? Number.POSITIVE_INFINITY))),
  );
}

/** The softmax of logits, in float32 as transformers.js computes it. */
export function softmax(logits: Float32Array): Float32Array {
  const max = Math.max(...logits);
  const exponentials = logits.map((logit) => Math.exp(logit - max));
  const sum = exponentials.reduce((total, value) => total + value, 0);
  return exponentials.map((value) => value / sum);
}

/** The sigmoid of each logit, in float32. */
export function sigmoid(logits: Float32Array): Float32Array {
  return logits.map((logit) => 1 / (1 + Math.exp(-logit)));
}
