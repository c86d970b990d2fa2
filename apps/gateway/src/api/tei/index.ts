import { type Bounds, teiErrors, teiModelRoutesFor, teiRoutesFor } from '@sluice/contract';
import { createFamily, type Family } from '../../http/family.js';
import { errorFormatOf } from '../../http/problem.js';
import type { AnswerInputs } from '../../models/answerInputs.js';
import type { Catalog } from '../../models/catalog.js';
import type { Tokenizers } from '../../models/tokenizers.js';
import { teiOperations } from './operations.js';

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
  const ofFirst = createFamily(routes, operations.ofFirst, errorFormatOf(teiErrors));
  const ofNamed = createFamily(teiModelRoutesFor(bounds), operations.ofNamed, errorFormatOf(teiErrors));
  return { ...ofFirst, routes: [...ofFirst.routes, ...ofNamed.routes] };
}
