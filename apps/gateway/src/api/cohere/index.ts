import { type Bounds, cohereErrors, cohereRoutesFor } from '@sluice/contract';
import { createFamily, type Family } from '../../http/family.js';
import { errorFormatOf } from '../../http/problem.js';
import type { AnswerInputs } from '../../models/answerInputs.js';
import type { Catalog } from '../../models/catalog.js';
import { rerankHandlers } from './rerank.js';

interface Services {
  bounds: Bounds;
  catalog: Catalog;
  answerInputs: AnswerInputs;
}

/**
 * The rerank APIs of Cohere (https://docs.cohere.com/reference/rerank), Jina (https://jina.ai/reranker) and Infinity in
 * one: a response has the fields of all.
 */
export function cohereFamily({ bounds, ...services }: Services): Family {
  return createFamily(cohereRoutesFor(bounds), rerankHandlers(services), errorFormatOf(cohereErrors));
}
