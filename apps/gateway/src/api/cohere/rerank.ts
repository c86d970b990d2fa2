import type { CohereRoutes } from '@sluice/contract';
import { textRanking } from '@sluice/tasks';
import type { Context, HandlersOf } from '../../http/family.js';
import { Problem } from '../../http/problem.js';
import type { AnswerInputs } from '../../models/answerInputs.js';
import type { Catalog, CatalogEntry } from '../../models/catalog.js';

interface Services {
  catalog: Catalog;
  answerInputs: AnswerInputs;
}

/** Documents that Cohere counts as one search. */
const DOCUMENTS_PER_SEARCH = 100;

type RerankContext = Pick<Context<CohereRoutes['rerankV1']>, 'body' | 'slot' | 'signal' | 'response'>;

/** Handlers of the rerank routes, which differ in their paths alone. */
export function rerankHandlers({ catalog, answerInputs }: Services): HandlersOf<CohereRoutes> {
  const create = (version: string) => async (context: RerankContext) => {
    const { body, slot, signal, response } = context;
    const model = catalog.forTask(body.model ?? undefined, textRanking.name);
    await catalog.refreshIfUnknown();
    checkMaxTokens(model, body.max_tokens_per_doc ?? undefined);
    const texts = body.documents.map((document) => (typeof document === 'string' ? document : document.text));
    const [answer] = await answerInputs(model, textRanking, {
      inputs: [{ query: body.query, texts }],
      at: [],
      isList: false,
      parameters: { raw_scores: body.raw_scores, ...(body.top_n == null ? {} : { top_n: body.top_n }) },
      slot,
      signal,
      response,
    });
    const tokens = answer?.tokens ?? 0;
    return {
      id: response.locals.requestId,
      results: (answer?.output ?? []).map(({ index, score }) => ({
        index,
        relevance_score: score,
        ...(body.return_documents ? { document: { text: texts[index] ?? '' } } : {}),
      })),
      meta: {
        api_version: { version },
        billed_units: { search_units: Math.ceil(texts.length / DOCUMENTS_PER_SEARCH) },
      },
      object: 'rerank' as const,
      model: model.spec.id,
      usage: { prompt_tokens: tokens, total_tokens: tokens },
    };
  };
  return { rerankV1: create('1'), rerankV2: create('2'), rerankDocuments: create('1') };
}

/** @throws Problem `validation_failed` if documents would have to be cut before the model's maximum */
function checkMaxTokens(model: CatalogEntry, asked: number | undefined): void {
  const maxTokens = model.reports()[0]?.maxTokens;
  if (asked === undefined || maxTokens === undefined || asked >= maxTokens) return;
  throw new Problem('validation_failed', {
    errors: [
      {
        pointer: '/max_tokens_per_doc',
        detail: `The model reads ${maxTokens} tokens of a query with a document; a smaller number is not supported`,
      },
    ],
  });
}
