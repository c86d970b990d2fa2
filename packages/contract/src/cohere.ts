import * as z from 'zod';
import { type Bounds, nameDocs, namesFor, textSchema } from './prediction.js';
import { describeErrorFlat } from './problem.js';
import { type FamilyErrors, type Route, work, workProblems } from './route.js';

const errorSchema = z.object({ message: z.string(), detail: z.string() }).meta({
  id: 'RerankError',
  description: 'An error in the shapes of Cohere (`message`) and Jina (`detail`)',
});

export const cohereErrors: FamilyErrors = {
  schema: errorSchema,
  statuses: {
    invalid_api_key: 401,
    validation_failed: 400,
    input_too_long: 400,
    wrong_parameter: 400,
    wrong_task: 400,
    cost_over_limit: 400,
  },
  body: (error) => ({ message: describeErrorFlat(error), detail: describeErrorFlat(error) }),
};

/** The body of a rerank request of Cohere, Jina and Infinity. */
function rerankBody(bounds: Bounds) {
  const text = textSchema(bounds.maxTextChars);
  return z.object({
    model: z
      .string()
      .nullish()
      .meta({
        description: 'Id or alias of a model; if not given, the first one for text-ranking',
        ...nameDocs([...namesFor(bounds, 'text-ranking'), null]),
      }),
    query: text,
    documents: z
      .array(z.union([text, z.object({ text })]))
      .min(1)
      .meta({ description: 'Texts, or objects with the field `text`' }),
    top_n: z.int().min(1).nullish().meta({ description: 'How many documents to return; all if not given' }),
    return_documents: z
      .boolean()
      .nullish()
      .meta({ description: 'Whether results have the text of their document' }),
    raw_scores: z
      .boolean()
      .default(false)
      .meta({ description: "Whether scores are the model's outputs, instead of values from 0 to 1" }),
    rank_fields: z
      .array(z.literal('text', 'Only the field "text" of a document is read'))
      .nullish()
      .meta({ description: 'Only the field `text` of a document is read' }),
    max_tokens_per_doc: z
      .int()
      .min(1)
      .nullish()
      .meta({ description: "Refused if it is less than the model's maximum, at which documents are cut" }),
    max_chunks_per_doc: z
      .literal(1, 'Documents are not divided into chunks: they are cut at the maximum of the model')
      .nullish(),
  });
}

const rankingSchema = z.object({
  id: z.string(),
  results: z.array(
    z.object({
      index: z.int(),
      relevance_score: z.number(),
      document: z.object({ text: z.string() }).optional(),
    }),
  ),
  meta: z.object({
    api_version: z.object({ version: z.string() }),
    billed_units: z.object({ search_units: z.int() }),
  }),
  object: z.literal('rerank'),
  model: z.string(),
  usage: z.object({ prompt_tokens: z.int(), total_tokens: z.int() }),
});

/** The tables of routes in the shapes of Cohere, Jina and Infinity. */
export function cohereRoutesFor(bounds: Bounds) {
  const route = {
    ...work,
    task: 'text-ranking',
    summary: 'Documents by their relevance for a query, best first',
    body: rerankBody(bounds),
    largeBody: true,
    answer: rankingSchema,
    tag: 'Rerank (Cohere, Jina, Infinity)',
    errors: cohereErrors,
    problems: ['model_not_found', 'wrong_task', 'input_too_long', ...workProblems],
  } as const;
  return {
    rerankV1: { ...route, path: '/v1/rerank' },
    rerankV2: { ...route, path: '/v2/rerank' },
    rerankDocuments: { ...route, path: '/rerank' },
  } as const satisfies Record<string, Route>;
}

export type CohereRoutes = ReturnType<typeof cohereRoutesFor>;
