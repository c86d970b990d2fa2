import type { TaskName } from '@sluice/tasks';
import type { LoadTaskModel } from '../taskModel.js';
import { loadFeatureExtraction } from './featureExtraction.js';
import { loadTextClassification } from './textClassification.js';
import { loadTextRanking } from './textRanking.js';
import { loadTokenClassification } from './tokenClassification.js';
import { loadZeroShotClassification } from './zeroShotClassification.js';

/** How a loaded model is prepared and run for each task. */
export const taskModels: Readonly<Record<TaskName, LoadTaskModel>> = {
  'text-classification': loadTextClassification,
  'zero-shot-classification': loadZeroShotClassification,
  'token-classification': loadTokenClassification,
  'feature-extraction': loadFeatureExtraction,
  'text-ranking': loadTextRanking,
};
