import { dtypeSchema, modelErrorCodeSchema, poolingSchema } from '@sluice/shared';
import { rowSchema, taskNameSchema } from '@sluice/tasks';
import * as z from 'zod';

/** The message that makes a model process load a model. */
const loadSchema = z.object({
  type: z.literal('load'),
  task: taskNameSchema,
  /** Folder of the model's files. */
  folder: z.string().min(1),
  dtype: dtypeSchema,
  /** Configured; see `ModelSpec`. */
  maxTokens: z.int().min(1).optional(),
  pooling: poolingSchema.optional(),
  normalize: z.boolean().optional(),
  prompts: z.record(z.string(), z.string()).optional(),
  /** Of onnxruntime. */
  sessionOptions: z.record(z.string(), z.unknown()),
  /** Whether to measure the model. One process does it for all, since it takes some runs. */
  measure: z.boolean(),
});
export type LoadMessage = z.infer<typeof loadSchema>;

/** The message that makes a model process run rows together. */
const runSchema = z.object({
  type: z.literal('run'),
  runId: z.int(),
  rows: z.array(rowSchema).min(1),
  /** The task's run parameters. */
  parameters: z.looseObject({ truncation_direction: z.enum(['left', 'right']) }),
});
export type RunMessage = z.infer<typeof runSchema>;

/** Rows that run together, with the run parameters of all of them. */
export type RunRequest = Pick<RunMessage, 'rows' | 'parameters'>;

export const toProcessSchema = z.discriminatedUnion('type', [loadSchema, runSchema]);

/** The result of one row. */
const rowResultSchema = z.object({
  /** What the model returned; the task parses it. */
  raw: z.unknown(),
  /** Tokens that the model read. */
  tokens: z.int().min(0),
  /** Whether the row was truncated to the model's maximum number of tokens. */
  truncated: z.boolean(),
});
export type RowResult = z.infer<typeof rowResultSchema>;

const measuredSchema = z.object({
  /** How much an output changes when its rows run with others instead of alone; null if they cannot run together. */
  drift: z.number().nullable(),
  /** Cost of a run, whatever is in it, in milliseconds. */
  msPerRun: z.number(),
  /** Cost of each token in a run, padding included, in milliseconds. */
  msPerToken: z.number(),
  /** Mean time of a row that runs alone, in milliseconds. */
  msPerRow: z.number(),
});
export type Measured = z.infer<typeof measuredSchema>;

/** What a loaded model reports about itself. */
const modelFactsSchema = z.object({
  /** Maximum number of tokens of a row; longer rows are truncated. */
  maxTokens: z.int().min(1),
  /** What runs the model, with its version, on which outputs may depend. */
  runtime: z.string(),
  /** What only the task understands. */
  task: z.unknown(),
  /** Only if the load message asked for it. */
  measured: measuredSchema.optional(),
});
export type ModelFacts = z.infer<typeof modelFactsSchema>;

export const fromProcessSchema = z.discriminatedUnion('type', [
  /** A sign of life while the model is measured, which may take long. */
  z.object({ type: z.literal('measuring') }),
  z.object({ type: z.literal('ready'), facts: modelFactsSchema }),
  /** The model cannot be loaded; the process ends. */
  z.object({ type: z.literal('unloadable'), code: modelErrorCodeSchema, reason: z.string() }),
  z.object({
    type: z.literal('result'),
    runId: z.int(),
    results: z.array(rowResultSchema),
    /** When the process began and ended the run, in milliseconds since the epoch. */
    startedMs: z.number(),
    endedMs: z.number(),
  }),
  /** The model threw an error; the process continues. */
  z.object({ type: z.literal('refused'), runId: z.int(), reason: z.string() }),
]);
export type FromProcess = z.infer<typeof fromProcessSchema>;
