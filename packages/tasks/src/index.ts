import * as z from 'zod';
import { featureExtraction } from './featureExtraction.js';
import type { Task } from './task.js';
import { textClassification } from './textClassification.js';
import { textRanking } from './textRanking.js';
import { tokenClassification } from './tokenClassification.js';
import { zeroShotClassification } from './zeroShotClassification.js';

export { featureExtraction, vectorSchema } from './featureExtraction.js';
export { type LabelScore, labelScoreSchema, softmax } from './labelScore.js';
export { type Encoding, type Row, rowSchema, type Task } from './task.js';
export { textClassification } from './textClassification.js';
export { textRanking } from './textRanking.js';
export { type Aggregation, type Entity, tokenClassification } from './tokenClassification.js';
export { zeroShotClassification } from './zeroShotClassification.js';

/** Every task that Sluice serves. A new one needs an entry here and in `apps/worker/src/model/tasks`. */
const tasks = {
  'text-classification': textClassification,
  'zero-shot-classification': zeroShotClassification,
  'token-classification': tokenClassification,
  'feature-extraction': featureExtraction,
  'text-ranking': textRanking,
} as const;

export type TaskName = keyof typeof tasks;
export const taskNameSchema = z.enum(Object.keys(tasks) as [TaskName, ...TaskName[]]);

/** Returns a task by its name, for code that carries inputs and outputs without looking into them. */
export function taskNamed(name: TaskName): Task {
  return tasks[name] as unknown as Task;
}
