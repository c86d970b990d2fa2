import { z } from 'zod';
import { oneOrManyDocs, textDocs } from './input.js';
import { type Bounds, modelParams, nameDocs, namesFor } from './prediction.js';
import { about, type FamilyErrors, type Route, work, workProblems } from './route.js';

const errorSchema = z
  .object({
    error: z.object({
      message: z.string(),
      type: z.string(),
      param: z.string().nullable(),
      code: z.string().nullable(),
    }),
  })
  .meta({ id: 'OpenAiError', description: 'An error in the shape of the OpenAI API' });

export const openAiErrors: FamilyErrors = {
  schema: errorSchema,
  statuses: {
    invalid_api_key: 401,
    validation_failed: 400,
    input_too_long: 400,
    wrong_parameter: 400,
    wrong_task: 400,
    cost_over_limit: 400,
  },
};

/** Inputs, which the handler checks, since it names what is wrong better than a union of schemas could. */
const inputs = (bounds: Bounds) =>
  z
    .unknown()
    .refine((given) => given !== undefined, 'Give "input"')
    .meta({ ...oneOrManyDocs(textDocs(bounds.maxTextChars)), description: 'A text, or a list of texts' });

const MODEL_MISSING = 'Give "model": the id or alias of a model';

/** The body of `POST /v1/embeddings`. */
export const embeddingsBody = (bounds: Bounds) =>
  z.object({
    model: z
      .string(MODEL_MISSING)
      .meta({ description: 'Id or alias of a model', ...nameDocs(namesFor(bounds, 'feature-extraction')) }),
    input: inputs(bounds),
    dimensions: z.int().min(1).nullish().meta({ description: 'Keep only the first dimensions' }),
    encoding_format: z
      .enum(['float', 'base64'])
      .nullish()
      .meta({ description: 'Vectors as lists of numbers, or as base64 of little-endian float32' }),
    user: z.string().nullish().meta({ description: 'Has no effect' }),
  });

export const embeddingsSchema = z.object({
  object: z.literal('list'),
  data: z.array(
    z.object({
      object: z.literal('embedding'),
      index: z.int(),
      embedding: z.union([z.array(z.number()), z.string()]),
    }),
  ),
  model: z.string(),
  usage: z.object({ prompt_tokens: z.int(), total_tokens: z.int() }),
});

/** The body of `POST /v1/moderations`. */
export const moderationsBody = (bounds: Bounds) => {
  const text = textDocs(bounds.maxTextChars);
  const part = {
    type: 'object',
    properties: { type: { const: 'text' }, text },
    required: ['type', 'text'],
  };
  return z.object({
    model: z
      .string()
      .nullish()
      .meta({
        description: 'Id or alias of a model; if not given, the first multi-label classifier',
        ...nameDocs([...namesFor(bounds, 'text-classification'), null]),
      }),
    input: z
      .unknown()
      .refine((given) => given !== undefined, 'Give "input"')
      .meta({
        anyOf: [
          text,
          { type: 'array', items: text, minItems: 1 },
          { type: 'array', items: part, minItems: 1 },
        ],
        description: 'A text, a list of texts, or a list of parts of one text',
      }),
  });
};

export const moderationsSchema = z.object({
  id: z.string(),
  model: z.string(),
  results: z.array(
    z.object({
      flagged: z.boolean(),
      categories: z.record(z.string(), z.boolean()),
      category_scores: z.record(z.string(), z.number()),
      category_applied_input_types: z.record(z.string(), z.array(z.literal('text'))),
    }),
  ),
});

const modelSchema = z.object({
  id: z.string(),
  object: z.literal('model'),
  created: z.int().meta({ description: 'When the server read its configuration, in Unix seconds' }),
  owned_by: z.string(),
});

const family = { tag: 'OpenAI', errors: openAiErrors } as const;
const inference = {
  ...work,
  ...family,
  largeBody: true,
  problems: ['model_not_found', 'wrong_task', 'input_too_long', ...workProblems],
} as const;

/** The table of routes in the shape of the OpenAI API. */
export function openAiRoutesFor(bounds: Bounds) {
  const embeddings = {
    ...inference,
    summary: 'Embeddings of texts',
    body: embeddingsBody(bounds),
    answer: embeddingsSchema,
  } as const;
  return {
    embeddings: { ...embeddings, path: '/v1/embeddings' },
    embeddingsWithoutVersion: { ...embeddings, path: '/embeddings' },
    moderations: {
      ...inference,
      path: '/v1/moderations',
      summary: 'Which labels of a multi-label classifier apply to texts',
      body: moderationsBody(bounds),
      answer: moderationsSchema,
    },
    openAiModels: {
      ...about,
      ...family,
      access: 'key',
      path: '/v1/models',
      summary: 'Ids and aliases of the configured models',
      answer: z.object({ object: z.literal('list'), data: z.array(modelSchema) }),
      problems: [],
    },
    openAiModel: {
      ...about,
      ...family,
      access: 'key',
      path: '/v1/models/*id',
      params: modelParams(bounds.models.map(({ name }) => name)),
      summary: 'One configured model',
      answer: modelSchema,
      problems: ['model_not_found'],
    },
  } as const satisfies Record<string, Route>;
}

export type OpenAiRoutes = ReturnType<typeof openAiRoutesFor>;
