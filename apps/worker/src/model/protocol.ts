import { modelDtypes } from '@sluice/shared';
import { z } from 'zod';

/** What a model process is told to load. */
export const loadSchema = z.object({
  type: z.literal('load'),
  model: z.string().min(1),
  /** Folder with a folder for each bundled model. */
  modelsDir: z.string(),
  /** Whether to load from `modelsDir` alone, without a word to the network. */
  bundled: z.boolean(),
  /** Where models from the Hub are kept. */
  cacheDir: z.string(),
  /** The Hub, or a mirror of it. */
  hubUrl: z.string(),
  revision: z.string(),
  dtype: z.enum(modelDtypes),
  /** Of onnxruntime. */
  sessionOptions: z.record(z.string(), z.unknown()),
  /** Whether to tell all that the worker has to know of the model, which takes a few runs. */
  introduce: z.boolean(),
});
export type LoadMessage = z.infer<typeof loadSchema>;

/** Run these texts, all at once. */
export const runSchema = z.object({
  type: z.literal('run'),
  runId: z.int(),
  texts: z.array(z.string()).min(1),
  /** How many labels of each to return. */
  topK: z.int().min(1),
});
export type RunMessage = z.infer<typeof runSchema>;

export const toProcessSchema = z.discriminatedUnion('type', [loadSchema, runSchema]);

/** What the model makes of one text. */
export const textResultSchema = z.object({
  /** Best first. */
  labels: z.array(z.object({ label: z.string(), score: z.number() })).min(1),
  truncated: z.boolean(),
});
export type TextResult = z.infer<typeof textResultSchema>;

/** What a loaded model says of itself. */
export const modelFactsSchema = z.object({
  /** Most tokens of a text; what is longer is cut. */
  maxTokens: z.int().min(1),
  /** In the order of the model's outputs. */
  labels: z.array(z.string()),
  /** What runs it, with its version: a score may depend on it. */
  runtime: z.string(),
  /** How far a score moved when its text had company; undefined when that was not checked. */
  moved: z.number().optional(),
  /** How long a text takes alone, about. */
  msPerText: z.number().optional(),
  /** What its tokenizer is made of: tokenizer.json and tokenizer_config.json. */
  tokenizer: z
    .object({ json: z.record(z.string(), z.unknown()), config: z.record(z.string(), z.unknown()) })
    .optional(),
});
export type ModelFacts = z.infer<typeof modelFactsSchema>;

export const fromProcessSchema = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('progress'),
    file: z.string(),
    loadedBytes: z.number(),
    totalBytes: z.number(),
  }),
  z.object({ type: z.literal('ready'), facts: modelFactsSchema }),
  /** The model cannot be loaded; the process ends. */
  z.object({ type: z.literal('unloadable'), reason: z.string() }),
  z.object({ type: z.literal('result'), runId: z.int(), results: z.array(textResultSchema) }),
  /** The model refused these texts; the process goes on. */
  z.object({ type: z.literal('refused'), runId: z.int(), reason: z.string() }),
]);
export type FromProcess = z.infer<typeof fromProcessSchema>;
