import { type Bounds, openAiRoutesFor } from '@sluice/contract';
import { createFamily, type Family } from '../../http/family.js';
import type { AnswerInputs } from '../../models/answerInputs.js';
import type { Catalog } from '../../models/catalog.js';
import { embeddingsHandlers } from './embeddings.js';
import { openAiLimitHeaders } from './limitHeaders.js';
import { openAiModels } from './models.js';
import { moderationsHandlers } from './moderations.js';
import { openAiError } from './openAiError.js';

interface Services {
  bounds: Bounds;
  catalog: Catalog;
  answerInputs: AnswerInputs;
}

/** The OpenAI API (https://platform.openai.com/docs/api-reference), as far as small models can answer it. */
export function openAiFamily({ bounds, catalog, answerInputs }: Services): Family {
  return createFamily(
    openAiRoutesFor(bounds),
    {
      ...embeddingsHandlers({ catalog, answerInputs }),
      ...moderationsHandlers({ catalog, answerInputs }),
      ...openAiModels(catalog, new Date()),
    },
    openAiError,
    openAiLimitHeaders,
  );
}
