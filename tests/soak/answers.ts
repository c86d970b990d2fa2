import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../harness.js';
import type { Checker } from './checker.js';

/** Maximum difference of a score or of a component of a vector. */
const TOLERANCE = 1e-4;

/** The texts of all requests. */
export const sentences = readFileSync(join(root, 'tests/data/sst2-100.tsv'), 'utf8')
  .trim()
  .split('\n')
  .slice(1, 61)
  .map((row) => row.split('\t')[0] ?? '');

/** The expected answer to each text: the one that it got when it was sent alone. */
export class Answers {
  #checker: Checker;
  #scores = new Map<string, number>();
  #vectors = new Map<string, readonly number[]>();

  constructor(checker: Checker) {
    this.#checker = checker;
  }

  /** Remembers what a text got alone. */
  learn(text: string, classification: Classification, vector: readonly number[]): void {
    this.#scores.set(text, signed(classification));
    this.#vectors.set(text, vector);
  }

  /** @throws Error if the answers are so similar that a wrong one could not be told from a right one */
  verifyDifferent(): void {
    const different = new Set([...this.#scores.values()].map((score) => Math.round(score / (2 * TOLERANCE))));
    if (different.size < sentences.length / 2) throw new Error('The answers to the texts are too similar');
  }

  checkClassification(text: string, classification: Classification, where: string): void {
    const [score, expected] = [signed(classification), this.#scores.get(text) ?? Number.NaN];
    if (!(Math.abs(score - expected) <= TOLERANCE))
      this.#checker.violate('wrong-output', `${where}: ${score} instead of ${expected} for "${text}"`);
  }

  checkVector(text: string, vector: readonly number[] | undefined, where: string): void {
    const expected = this.#vectors.get(text);
    if (
      !vector ||
      !expected ||
      vector.length !== expected.length ||
      vector.some((value, i) => !(Math.abs(value - (expected[i] ?? 0)) <= TOLERANCE))
    )
      this.#checker.violate('wrong-output', `${where}: another vector for "${text}"`);
  }
}

interface Classification {
  sentiment: string;
  confidence: number;
}

/** A classification as one number: the confidence, negative for a negative sentiment. */
const signed = ({ sentiment, confidence }: Classification) =>
  sentiment === 'positive' ? confidence : -confidence;
