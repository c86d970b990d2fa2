import * as z from 'zod';

/** One sequence that the model is given: a text, or a pair of texts. */
export const rowSchema = z.object({ text: z.string(), pair: z.string().optional() });
export type Row = z.infer<typeof rowSchema>;

/** Parameters that every task has. */
export const sharedParameters = {
  truncate: z
    .boolean()
    .default(true)
    .meta({ description: 'Whether an input that is too long for the model is cut; if false it is refused' }),
  truncation_direction: z
    .enum(['left', 'right'])
    .default('right')
    .meta({ description: 'The side on which an input that is too long is cut' }),
};

/** How the rows of a run are encoded. */
export interface Encoding {
  truncation_direction: 'left' | 'right';
}

/** A parameter whose value does not fit the model. */
interface WrongParameter {
  name: string;
  detail: string;
}

/**
 * A kind of work that a model does. Queues, batcher, pool and ledger carry inputs, parameters, outputs and the raw
 * outputs of rows as they are; only a task knows what is in them.
 */
export interface Task<
  Input = unknown,
  Parameters = unknown,
  Output = unknown,
  Facts = unknown,
  Raw = unknown,
> {
  /** The name on the Hugging Face Hub, such as `text-classification`. */
  name: string;
  /** Schema of an input's shape; bounds such as the longest text are the API's. */
  input: z.ZodType<Input>;
  /** Schema of the parameters. */
  parameters: z.ZodType<Parameters>;
  /** Schema of the output for one input. */
  output: z.ZodType<Output>;
  /** Schema of what a loaded model reports about itself for this task. */
  facts: z.ZodType<Facts>;
  /** Schema of what the model returns for one row. */
  raw: z.ZodType<Raw>;
  /** Every text of an input, for the API's bounds, each with its path in the input. */
  texts(input: Input): readonly { path: readonly (string | number)[]; text: string }[];
  /**
   * The rows that one item makes the model run; at least one.
   * @param facts of the model; undefined where only the number of rows matters
   */
  rows(input: Input, parameters: Parameters, facts?: Facts): readonly Row[];
  /** Whether an input that is too long is truncated; otherwise it is refused. */
  mayTruncate(parameters: Parameters): boolean;
  /** What a run needs to know of the parameters. Rows run together only if it is equal. */
  runParameters(parameters: Parameters): Encoding & Readonly<Record<string, unknown>>;
  /** The output for an input, from the raw outputs of its rows, in order. */
  combine(raws: readonly Raw[], input: Input, parameters: Parameters, facts: Facts): Output;
  /** A parameter that this model cannot apply; undefined if all are fine. */
  wrongParameter(parameters: Parameters, facts: Facts): WrongParameter | undefined;
  /**
   * How many bytes the stored result of one item takes in Redis, at most in the usual case.
   * @param facts of the model; undefined until a live worker has reported them
   */
  resultBytes(input: Input | undefined, parameters: Parameters, facts: Facts | undefined): number;
  /** How many numbers an output has at most, if that may be far more than the input has characters. */
  outputNumbers?(input: Input, parameters: Parameters, facts: Facts | undefined): number;
  /** The largest difference between two outputs for the same input; 0 when they are identical. */
  difference(one: Output, other: Output): number;
}

/** The schema of numbers that are sent as raw float32. */
export const float32Schema = z.custom<Float32Array>(
  // Not instanceof: the numbers may come from another realm, as in a test.
  (value) => Object.prototype.toString.call(value) === '[object Float32Array]',
  'not a Float32Array',
);

/**
 * Redis's own cost and the fields around an output, in bytes, with a margin. Measured with the bundled classifier and one
 * label: a result takes 44 bytes of MessagePack, of which the label and its score are 28.
 */
export const RESULT_BYTES = 24;
/** A label with its score: its fields, and a number of 9 bytes. */
export const LABEL_SCORE_BYTES = 26;
/** Length assumed for a label until a worker has reported the labels, in bytes. */
export const UNKNOWN_LABEL_BYTES = 32;

export const bytesOf = (text: string): number => new TextEncoder().encode(text).length;
