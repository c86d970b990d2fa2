import { type Bounds, huggingFaceErrors, huggingFaceRoutesFor } from '@sluice/contract';
import { createFamily, type Family } from '../../http/family.js';
import { errorFormatOf } from '../../http/problem.js';
import type { AnswerInputs } from '../../models/answerInputs.js';
import type { Catalog } from '../../models/catalog.js';
import { inferenceRoutes } from './inference.js';

interface Services {
  bounds: Bounds;
  catalog: Catalog;
  answerInputs: AnswerInputs;
}

/** Every model in the shape of the Hugging Face Inference API (https://huggingface.co/docs/inference-providers). */
export function huggingFaceFamily({ bounds, ...services }: Services): Family {
  return createFamily(
    huggingFaceRoutesFor(bounds),
    inferenceRoutes(services),
    errorFormatOf(huggingFaceErrors),
  );
}
