import { taskNamed } from '@sluice/tasks';
import { env } from '@xenova/transformers';
import * as z from 'zod';
import type { LoadMessage, ModelFacts } from '../process/protocol.js';
import { measure } from './measure.js';
import { SequenceModel } from './sequenceModel.js';
import type { TaskModel } from './taskModel.js';
import { taskModels } from './tasks/index.js';

/** Runs rows together. */
type Run = TaskModel['run'];

/** A loaded model. */
export interface LoadedModel {
  facts: ModelFacts;
  run: Run;
}

/**
 * Loads the model that a message names.
 * @param onRun called after each run that measures it
 * @throws ModelError, or what a library throws
 */
export type Load = (message: LoadMessage, onRun: () => void) => Promise<LoadedModel>;

const versionsSchema = z.object({ node: z.string() });

/**
 * Loads a model with transformers.js.
 * @param change replaces how the model runs, also while it is measured; for tests
 */
export async function loadModel(
  message: LoadMessage,
  onRun: () => void,
  change = (run: Run): Run => run,
): Promise<LoadedModel> {
  const sequenceModel = await SequenceModel.load(message);
  const loaded = await taskModels[message.task](sequenceModel, message);
  const model = { ...loaded, run: change(loaded.run) };
  const versions = versionsSchema.safeParse(Reflect.get(env.backends.onnx, 'versions'));
  const facts: ModelFacts = {
    maxTokens: sequenceModel.maxTokens,
    runtime: versions.success ? `onnxruntime ${versions.data.node}` : 'onnxruntime',
    task: model.facts,
  };
  const { run } = model;
  if (!message.measure) return { facts, run };
  return { facts: { ...facts, measured: await measure(taskNamed(message.task), model, onRun) }, run };
}
