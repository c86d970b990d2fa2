import { env, pipeline } from '@xenova/transformers';
import { z } from 'zod';
import { measure } from './invariance.js';
import type { FromProcess, LoadMessage, ModelFacts, TextResult } from './protocol.js';

/** A loaded model. */
export interface Classifier {
  facts: ModelFacts;
  /** Runs texts, all at once; `topK` labels of each, best first. */
  classify(texts: string[], topK: number): Promise<TextResult[]>;
}

/** Loads a model, as a model process needs it. */
export type Load = (
  message: LoadMessage,
  tell: (message: Extract<FromProcess, { type: 'progress' }>) => void,
) => Promise<Classifier>;

const outputSchema = z.array(z.array(z.object({ label: z.string(), score: z.number() })));
const progressSchema = z.object({
  status: z.literal('progress'),
  file: z.string(),
  loaded: z.number(),
  total: z.number(),
});
/** The most tokens assumed where a tokenizer names none. */
const USUAL_MAX_TOKENS = 512;
const ALL_LABELS = 1_000_000;
const id2labelSchema = z.record(z.string(), z.string());
const versionsSchema = z.object({ node: z.string() });

/** Loads a text-classification model with transformers.js. */
export const loadPipeline: Load = async (message, tell) => {
  env.localModelPath = message.modelsDir;
  env.allowLocalModels = message.bundled;
  env.allowRemoteModels = !message.bundled;
  env.remoteHost = message.hubUrl;
  env.cacheDir = message.cacheDir;
  const classifier = await pipeline('text-classification', message.model, {
    dtype: message.dtype,
    revision: message.revision,
    session_options: message.sessionOptions,
    progress_callback: (event: unknown) => {
      const progress = progressSchema.safeParse(event);
      if (!progress.success) return;
      const { file, loaded, total } = progress.data;
      tell({ type: 'progress', file, loadedBytes: loaded, totalBytes: total });
    },
  });
  const { tokenizer } = classifier;
  const maxTokens = Number.isSafeInteger(tokenizer.model_max_length)
    ? tokenizer.model_max_length
    : USUAL_MAX_TOKENS;

  /** A tokenizer makes a token of a byte at most, so only texts of many bytes are counted. */
  const isTruncated = (text: string) =>
    Buffer.byteLength(text) > maxTokens - 2 && tokenizer.encode(text).length > maxTokens;

  async function classify(texts: string[], topK: number): Promise<TextResult[]> {
    // Always more than one label, for the pipeline nests its output only then.
    const output = outputSchema.parse(await classifier(texts, { top_k: Math.max(2, topK) }));
    return output.map((labels, i) => ({
      labels: labels.slice(0, topK),
      truncated: isTruncated(texts[i] ?? ''),
    }));
  }

  // The first run also allocates what later runs use again.
  const [warm] = await classify(['warm'], ALL_LABELS);
  const versions = versionsSchema.safeParse(Reflect.get(env.backends.onnx, 'versions'));
  const facts: ModelFacts = {
    maxTokens,
    labels: labelsOf(Reflect.get(classifier.model.config, 'id2label'), warm),
    runtime: versions.success ? `onnxruntime ${versions.data.node}` : 'onnxruntime',
  };
  if (message.introduce) {
    Object.assign(facts, await measure((texts) => classify(texts, ALL_LABELS)));
    facts.tokenizer = { json: tokenizer._tokenizerJSON, config: tokenizer.config };
  }
  return { facts, classify };
};

/** Labels in the order of the model's outputs; where its configuration does not name them, as they come in a result. */
function labelsOf(id2label: unknown, result: TextResult | undefined): string[] {
  const named = id2labelSchema.safeParse(id2label);
  if (!named.success) return result?.labels.map(({ label }) => label).sort() ?? [];
  const indexes = Object.keys(named.data).sort((a, b) => Number(a) - Number(b));
  return indexes.map((index) => named.data[index] ?? '');
}
