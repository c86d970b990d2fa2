import type { Encoding, Row } from '@sluice/tasks';
import type { LoadMessage, RowResult } from '../process/protocol.js';
import type { SequenceModel } from './sequenceModel.js';
import type { EncodedRow } from './tokenizer.js';

/** A model that is loaded for a task. */
export interface TaskModel {
  /** Facts of the task, as its schema in `packages/tasks` says. */
  facts: unknown;
  /** Inputs of various lengths, the shortest first, with parameters for all of them, to measure the model with. */
  probes: { inputs: readonly unknown[]; parameters: unknown };
  /** Runs rows together. */
  run(rows: readonly Row[], parameters: Encoding & Readonly<Record<string, unknown>>): Promise<RowResult[]>;
}

/** Prepares a loaded model for a task. @throws ModelError if the model does not fit the task */
export type LoadTaskModel = (model: SequenceModel, message: LoadMessage) => Promise<TaskModel>;

/** What a model returned for a row, with its number of tokens and whether it was truncated. */
export const resultOf = ({ tokens, truncated }: EncodedRow, raw: unknown): RowResult => ({
  raw,
  tokens,
  truncated,
});

/** Texts of various lengths, the shortest first. */
export const PROBE_TEXTS = [
  'Terrible.',
  'I loved every minute of it!',
  'The plot is thin, but the actors make up for it with charm and good timing.',
  'It opens slowly; then, about half an hour in, the film finds its rhythm, and from there on every scene adds ' +
    'something, so that by the end one hardly minds how little has happened, or that nobody has learned a thing.',
] as const;
