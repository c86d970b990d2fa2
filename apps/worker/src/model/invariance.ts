import type { TextResult } from './protocol.js';

/** A score that moves by more than this with its text's company is another score. */
export const MAX_MOVE = 1e-4;

/** Texts of various lengths, so that the short ones are padded when they run with the long ones. */
const TEXTS = [
  'Terrible.',
  'I loved every minute of it!',
  'The plot is thin, but the actors make up for it with charm and good timing.',
  'It opens slowly; then, about half an hour in, the film finds its rhythm, and from there on every scene adds ' +
    'something, so that by the end one hardly minds how little has happened, or that nobody has learned a thing.',
];

/** What a few runs tell of a model. */
export interface Measured {
  /**
   * How far a score moved when its text ran with others instead of alone: 0 for a float or statically quantised model,
   * up to 0.44 seen for one whose activations are quantised by the batch they stand in.
   */
  moved: number;
  /** How long a text takes alone. */
  msPerText: number;
}

/**
 * Runs a few texts together, then each alone.
 * @param classify runs texts, all at once, and returns all labels of each
 */
export async function measure(classify: (texts: string[]) => Promise<TextResult[]>): Promise<Measured> {
  const together = await classify(TEXTS);
  let moved = 0;
  const startedMs = performance.now();
  for (const [i, text] of TEXTS.entries()) {
    const [alone] = await classify([text]);
    const scores = new Map(alone?.labels.map(({ label, score }) => [label, score]));
    for (const { label, score } of together[i]?.labels ?? []) {
      moved = Math.max(moved, Math.abs(score - (scores.get(label) ?? Number.POSITIVE_INFINITY)));
    }
  }
  return { moved, msPerText: (performance.now() - startedMs) / TEXTS.length };
}
