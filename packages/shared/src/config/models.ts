import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import type { TaskName } from '@sluice/tasks';
import { type ModelEntry, type Pooling, readModelsFile } from './modelsFile.js';
import { type Dtype, packageFolder, rootFolder, type Settings, SettingsError } from './settings.js';

/** A configured model. Processes with the same configuration derive the same specs. */
export interface ModelSpec {
  /** It is part of the names of queues and keys in Redis. */
  id: string;
  /** Other names under which requests find it. */
  aliases: readonly string[];
  task: TaskName;
  /** Where its files are: a folder, or a repository on the Hub. */
  source: { folder: string } | { repository: string; revision: string };
  /** Branch, tag or commit of a model from the Hub, as configured; `main` for a folder. */
  revision: string;
  /** Which of the model's weight files to load. */
  dtype: Dtype;
  /** Model processes of a worker. */
  processes: number;
  /** Limits of a micro-batch; `tokens` includes the padding. A single row may exceed both. */
  microBatch: { rows: number; tokens: number };
  /** A run that takes longer than this is hung, unless the model is slow; in milliseconds. */
  stallMs: number;
  /** Deadline of an interactive request, in milliseconds. */
  timeoutMs: number;
  /** Maximum number of tokens of a row, if it is less than what the model can read. */
  maxTokens?: number;
  /** Of a classifier: the minimum at which moderations flag a category. */
  threshold: number;
  /** How an embedding model makes a vector; if not given, as its files say. */
  pooling?: Pooling;
  normalize?: boolean;
  prompts?: Readonly<Record<string, string>>;
  /**
   * Of the settings that change outputs. It is part of the names of queues, so that a gateway does not use a worker whose
   * configuration of the model differs.
   */
  hash: string;
}

const DEFAULT_MODEL = 'minilm-l6-sst2';
const DEFAULT_DTYPE = 'q8';
const DEFAULT_REVISION = 'main';
const DEFAULT_THRESHOLD = 0.5;
const HUB = 'hub:';
const HASH_DIGITS = 12;

/**
 * The configured models in the order of `models.json`: those of `MODELS_FILE`, else the one of `MODEL`, else those of
 * the project's `models.json`, else the bundled classifier.
 * @throws SettingsError
 */
export function modelSpecs(settings: Settings): readonly [ModelSpec, ...ModelSpec[]] {
  const { MODELS_FILE, MODEL, MODEL_DTYPE, MODEL_REVISION } = settings;
  if (MODELS_FILE !== undefined && MODEL !== undefined)
    throw new SettingsError('MODEL, MODELS_FILE: set only one of them; MODELS_FILE lists the models');
  const standard = [rootFolder, packageFolder].map((folder) => join(folder, 'models.json')).find(existsSync);
  const file = MODELS_FILE ?? (MODEL === undefined ? standard : undefined);
  if (file !== undefined) {
    if (MODEL_DTYPE !== undefined || MODEL_REVISION !== undefined)
      throw new SettingsError(
        `MODEL_DTYPE, MODEL_REVISION: they apply only with MODEL; set dtype and revision of each model in ${file}`,
      );
    const [first, ...others] = readModelsFile(file).map((entry) => specOf(entry, dirname(file), settings));
    if (first === undefined) throw new SettingsError(`${file}: it must list at least one model`);
    return [first, ...others];
  }
  const entry: ModelEntry = {
    id: MODEL ?? DEFAULT_MODEL,
    task: 'text-classification',
    ...(MODEL_DTYPE === undefined ? {} : { dtype: MODEL_DTYPE }),
    ...(MODEL_REVISION === undefined ? {} : { revision: MODEL_REVISION }),
  };
  // A folder of the user's, or one that comes with Sluice.
  const isOwn = existsSync(join(rootFolder, 'models', entry.id));
  return [specOf(entry, isOwn ? rootFolder : packageFolder, settings)];
}

/**
 * The models that this worker serves.
 * @throws SettingsError if `WORKER_MODELS` names one that is not configured
 */
export function workerSpecs(settings: Settings): readonly ModelSpec[] {
  const specs = modelSpecs(settings);
  const { WORKER_MODELS: wanted } = settings;
  const unknown = wanted.find((id) => specs.every((spec) => spec.id !== id));
  if (unknown !== undefined)
    throw new SettingsError(
      `WORKER_MODELS: "${unknown}" is not configured; there are: ${specs.map(({ id }) => id).join(', ')}`,
    );
  return wanted.length === 0 ? specs : specs.filter(({ id }) => wanted.includes(id));
}

function specOf(entry: ModelEntry, base: string, settings: Settings): ModelSpec {
  const { id, task, dtype = DEFAULT_DTYPE, revision = DEFAULT_REVISION } = entry;
  const inModels = join('models', id);
  const source =
    entry.source ??
    (existsSync(join(base, inModels, 'config.json')) || !id.includes('/') ? inModels : `${HUB}${id}`);
  const isHub = source.startsWith(HUB);
  const repository = source.slice(HUB.length);
  if (isHub && !/^[\w.-]+\/[\w.-]+$/.test(repository))
    throw new SettingsError(`The source of the model ${id} is not hub:owner/name: "${source}"`);
  const optional = {
    ...(entry.max_tokens === undefined ? {} : { maxTokens: entry.max_tokens }),
    ...(entry.pooling === undefined ? {} : { pooling: entry.pooling }),
    ...(entry.normalize === undefined ? {} : { normalize: entry.normalize }),
    ...(entry.prompts === undefined ? {} : { prompts: entry.prompts }),
  };
  return {
    id,
    aliases: entry.aliases ?? [],
    task,
    source: isHub ? { repository, revision } : { folder: resolve(base, source) },
    revision,
    dtype,
    processes: entry.processes ?? settings.MODEL_PROCESSES,
    microBatch: {
      rows: entry.micro_batch?.rows ?? settings.MICRO_BATCH_TEXTS,
      tokens: entry.micro_batch?.tokens ?? settings.MICRO_BATCH_TOKENS,
    },
    stallMs: (entry.stall_seconds ?? settings.STALL_SECONDS) * 1000,
    timeoutMs: (entry.timeout_seconds ?? settings.REQUEST_TIMEOUT_SECONDS) * 1000,
    threshold: entry.threshold ?? DEFAULT_THRESHOLD,
    ...optional,
    // Where a model is found may differ between machines, so the source counts as it is written.
    hash: createHash('sha256')
      .update(JSON.stringify({ task, source: entry.source ?? null, revision, dtype, ...optional }))
      .digest('hex')
      .slice(0, HASH_DIGITS),
  };
}
