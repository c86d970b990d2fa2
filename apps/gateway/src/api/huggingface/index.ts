import { type Bounds, inferenceRoutesFor } from '@sluice/contract';
import type { Settings } from '@sluice/shared';
import { createFamily, type Family } from '../../http/family.js';
import type { Catalog } from '../../models/catalog.js';
import { inferenceRoutes } from './inference.js';
import { inferenceError } from './inferenceError.js';

interface Services {
  settings: Settings;
  bounds: Bounds;
  catalog: Catalog;
}

/** Every model in the shape of the Hugging Face Inference API (https://huggingface.co/docs/inference-providers). */
export function huggingFaceFamily({ settings, bounds, catalog }: Services): Family {
  return createFamily(
    inferenceRoutesFor(bounds),
    inferenceRoutes({
      catalog,
      maxInputs: settings.MAX_INPUTS,
      maxTextChars: settings.MAX_TEXT_CHARS,
      bulkTimeoutMs: settings.BULK_REQUEST_TIMEOUT_SECONDS * 1000,
    }),
    inferenceError,
  );
}
