import { type Bounds, teiModelRoutesFor, teiRoutesFor } from '@sluice/contract';
import { createFamily, type Family } from '../../http/family.js';
import type { AnswerInputs } from '../../models/answerInputs.js';
import type { Catalog } from '../../models/catalog.js';
import type { Tokenizers } from '../../models/tokenizers.js';
import { teiOperations } from './operations.js';
import { teiError } from './teiError.js';

interface Services {
  bounds: Bounds;
  catalog: Catalog;
  tokenizers: Tokenizers;
  answerInputs: AnswerInputs;
  maxInputs: number;
  version: string;
}

/** The API of text-embeddings-inference (https://huggingface.github.io/text-embeddings-inference). */
export function teiFamily({ bounds, ...services }: Services): Family {
  const routes = teiRoutesFor(bounds);
  const operations = teiOperations({ routes, maxTextChars: bounds.maxTextChars, ...services });
  const ofFirst = createFamily(routes, operations.ofFirst, teiError);
  const ofNamed = createFamily(teiModelRoutesFor(bounds), operations.ofNamed, teiError);
  return { ...ofFirst, routes: [...ofFirst.routes, ...ofNamed.routes] };
}
