import { type TaskName, taskNameSchema } from '@sluice/tasks';
import * as z from 'zod';
import { eitherOf, type Json, oneOrManyDocs, partOf, textDocs } from './input.js';
import { type Bounds, modelParams, namesFor, textSchema } from './prediction.js';
import { describeErrorFlat, type ProblemCode } from './problem.js';
import { about, type FamilyErrors, type Route, statusOf, work, workProblems } from './route.js';

const EMBEDDINGS: TaskName = 'feature-extraction';
const CLASSIFICATION: TaskName = 'text-classification';
const RANKING: TaskName = 'text-ranking';

const errorSchema = z
  .object({
    error: z.string(),
    error_type: z.enum(['unhealthy', 'backend', 'overloaded', 'validation', 'tokenizer', 'empty']),
  })
  .meta({ id: 'TeiError', description: 'An error of text-embeddings-inference' });

const TYPES: Partial<Record<ProblemCode, string>> = {
  overloaded: 'overloaded',
  rate_limited: 'overloaded',
  analysis_failed: 'backend',
  analysis_timed_out: 'backend',
  wrong_task: 'backend',
};
const BACKEND_STATUS = 500;
const UNHEALTHY_STATUS = 503;

function typeOf(code: ProblemCode): string {
  const known = TYPES[code];
  if (known !== undefined) return known;
  const status = statusOf(teiErrors, code);
  if (status === UNHEALTHY_STATUS) return 'unhealthy';
  return status === BACKEND_STATUS ? 'backend' : 'validation';
}

/** Statuses as text-embeddings-inference documents them. */
export const teiErrors: FamilyErrors = {
  schema: errorSchema,
  body: (error) => ({ error: describeErrorFlat(error), error_type: typeOf(error.code) }),
  statuses: {
    validation_failed: 413,
    input_too_long: 413,
    wrong_parameter: 413,
    cost_over_limit: 413,
    wrong_task: 424,
    analysis_failed: 424,
    overloaded: 429,
  },
};

/** How a text that is longer than the model can read is treated. */
const truncation = {
  truncate: z
    .boolean()
    .nullish()
    .meta({ description: 'Whether a text that is too long is cut; otherwise it is refused' }),
  truncation_direction: z
    .enum(['right', 'left', 'Right', 'Left'])
    .default('right')
    .transform((direction) => (direction.toLowerCase() === 'left' ? 'left' : 'right')),
};

const promptName = z
  .string()
  .nullish()
  .meta({ description: 'The prompt of the model that precedes the text' });

/** Inputs, which the handler checks, since it names what is wrong better than a union of schemas could. */
const inputs = (docs: Json, description: string) =>
  z
    .unknown()
    .refine((given) => given !== undefined, 'Give "inputs"')
    .meta({ ...docs, description });

const texts = (bounds: Bounds) =>
  inputs(oneOrManyDocs(textDocs(bounds.maxTextChars)), 'A text, or a list of texts');

/** A text, a pair, or a list of lists with one or two texts. */
function predictDocs({ maxTextChars }: Bounds): Json {
  const text = textDocs(maxTextChars);
  const one = { type: 'array', items: text, minItems: 1, maxItems: 2 };
  return { anyOf: [text, one, { type: 'array', items: one, minItems: 1 }] };
}

const similarityInputs = (bounds: Bounds) =>
  z.object({
    source_sentence: textSchema(bounds.maxTextChars),
    sentences: z.array(textSchema(bounds.maxTextChars)).min(1),
  });

const labelScore = z.object({ score: z.number(), label: z.string() });
const vector = z.array(z.number());
const tokenSchema = z.object({
  id: z.int(),
  text: z.string(),
  special: z.boolean(),
  start: z.int().nullable().meta({ description: 'In Unicode characters of the text' }),
  stop: z.int().nullable(),
});

const labels = z.object({
  id2label: z.record(z.string(), z.string()),
  label2id: z.record(z.string(), z.int()),
});

const infoSchema = z.object({
  model_id: z.string(),
  model_sha: z.string().nullable(),
  model_dtype: z.string(),
  served_model_name: z.string(),
  model_type: z.union([
    z.object({ embedding: z.object({ pooling: z.string() }) }),
    z.object({ classifier: labels }),
    z.object({ reranker: labels }),
  ]),
  max_input_length: z.int(),
  max_batch_tokens: z.int(),
  max_batch_requests: z.int().nullable(),
  max_client_batch_size: z.int(),
  auto_truncate: z.boolean(),
  version: z.string(),
  sha: z.string().nullable(),
  docker_label: z.string().nullable(),
});

const family = { tag: 'text-embeddings-inference', errors: teiErrors } as const;
const inference = {
  ...work,
  ...family,
  largeBody: true,
  problems: ['model_not_found', 'wrong_task', 'input_too_long', ...workProblems],
} as const;

/** The operations of text-embeddings-inference on the first model of their task. */
export function teiRoutesFor(bounds: Bounds) {
  const rerankBody = z.object({
    query: textSchema(bounds.maxTextChars),
    texts: z.array(textSchema(bounds.maxTextChars)).min(1),
    ...truncation,
    raw_scores: z.boolean().default(false),
    return_text: z.boolean().default(false),
  });
  const embedBody = z.object({
    inputs: texts(bounds),
    ...truncation,
    prompt_name: promptName,
    normalize: z.boolean().default(true),
    dimensions: z.int().min(1).nullish(),
  });
  const predictBody = z.object({
    inputs: inputs(predictDocs(bounds), 'A text, a pair of texts, or a list of lists with one or two texts'),
    ...truncation,
    raw_scores: z.boolean().default(false),
  });
  const ranks = z.array(z.object({ index: z.int(), text: z.string().optional(), score: z.number() }));
  const predictions = z.union([z.array(labelScore), z.array(z.array(labelScore))]);
  const first = bounds.models.find(({ task }) => task === EMBEDDINGS || task === CLASSIFICATION);
  const rootDocs = eitherOf([
    partOf(first?.task === CLASSIFICATION ? predictBody : embedBody),
    ...(namesFor(bounds, RANKING).length > 0
      ? [{ ...partOf(rerankBody), not: { required: ['inputs'], properties: { inputs: {} } } }]
      : []),
  ]);
  return {
    embed: {
      ...inference,
      task: EMBEDDINGS,
      path: '/embed',
      summary: 'One vector for each text',
      body: embedBody,
      answer: z.array(vector),
    },
    embedAll: {
      ...inference,
      task: EMBEDDINGS,
      path: '/embed_all',
      summary: 'A vector for each token of each text, of up to 32 texts',
      body: z.object({ inputs: texts(bounds), ...truncation, prompt_name: promptName }),
      answer: z.array(z.array(vector)),
    },
    rerank: {
      ...inference,
      task: RANKING,
      path: '/rerank',
      summary: 'Texts by their relevance for a query, best first',
      body: rerankBody,
      ownField: 'texts',
      answer: ranks,
    },
    predict: {
      ...inference,
      task: CLASSIFICATION,
      path: '/predict',
      summary: 'Labels and scores of texts or pairs of texts',
      body: predictBody,
      ownField: 'inputs',
      answer: predictions,
    },
    similarity: {
      ...inference,
      task: EMBEDDINGS,
      path: '/similarity',
      summary: 'The cosine of a sentence with each of the others',
      body: z.object({
        inputs: similarityInputs(bounds),
        parameters: z.object({ ...truncation, prompt_name: promptName }).nullish(),
      }),
      answer: z.array(z.number()),
    },
    tokenize: {
      ...inference,
      limited: false,
      path: '/tokenize',
      summary: 'The tokens of texts; uses no slot',
      body: z.object({
        inputs: texts(bounds),
        add_special_tokens: z.boolean().default(true),
        prompt_name: promptName,
      }),
      answer: z.array(z.array(tokenSchema)),
      problems: ['model_not_found', 'no_worker'],
    },
    info: {
      ...about,
      ...family,
      access: 'key',
      path: '/info',
      summary: 'What text-embeddings-inference tells of its model',
      answer: infoSchema,
      problems: ['model_not_found', 'wrong_task', 'no_worker'],
    },
    root: {
      ...inference,
      path: '/',
      summary: 'What the first model gives: vectors, labels, or with "texts" their ranks',
      body: z.looseObject({ inputs: z.unknown().optional(), texts: z.unknown().optional() }).meta(rootDocs),
      answer: z.union([z.array(vector), predictions, ranks]),
    },
  } as const satisfies Record<string, Route>;
}

export type TeiRoutes = ReturnType<typeof teiRoutesFor>;

/** The operations on a model, as the last part of a path. */
const OPERATIONS = new Set(['embed', 'embed_all', 'rerank', 'predict', 'similarity', 'tokenize', 'info']);

const has = ({ models }: Pick<Bounds, 'models'>, wanted: string) =>
  models.some(({ name }) => name === wanted);

/** Whether the rest of a path names a model and an operation on it, and not a model as a whole. */
export function isTeiOperation(bounds: Pick<Bounds, 'models'>, path: unknown): boolean {
  const whole = Array.isArray(path) ? path.join('/') : String(path);
  const [, name = '', operation = ''] = /^(.*)\/([^/]*)$/.exec(whole) ?? [];
  return !has(bounds, whole) && has(bounds, name) && OPERATIONS.has(operation);
}

/** The same operations on a model that the path names. */
export function teiModelRoutesFor(bounds: Bounds) {
  const ofModel = <R extends Route>(route: R, ...tasks: TaskName[]) => ({
    ...route,
    path: `/models/*id${route.path}`,
    params: modelParams(tasks.flatMap((task) => namesFor(bounds, task))),
    // An id may end like an operation; then the whole path is the id.
    takes: ({ id }: Readonly<Record<string, unknown>>) =>
      !has(bounds, `${Array.isArray(id) ? id.join('/') : id}${route.path}`),
  });
  const routes = teiRoutesFor(bounds);
  return {
    embed: ofModel(routes.embed, EMBEDDINGS),
    embedAll: ofModel(routes.embedAll, EMBEDDINGS),
    rerank: ofModel(routes.rerank, RANKING),
    predict: ofModel(routes.predict, CLASSIFICATION),
    similarity: ofModel(routes.similarity, EMBEDDINGS),
    tokenize: ofModel(routes.tokenize, ...taskNameSchema.options),
    info: ofModel(routes.info, EMBEDDINGS, CLASSIFICATION, RANKING),
  } as const satisfies Record<string, Route>;
}

export type TeiModelRoutes = ReturnType<typeof teiModelRoutesFor>;
