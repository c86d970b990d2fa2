import * as z from 'zod';
import { oneOrManyDocs, textDocs } from './input.js';
import { batchHeaders, numberIn } from './job.js';
import { type Bounds, modelParams, nameDocs, namesFor } from './prediction.js';
import { describeErrorFlat, type ErrorFacts, type ProblemCode } from './problem.js';
import { about, type FamilyErrors, jobs, type Route, statusOf, work, workProblems } from './route.js';

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

/** Codes that have another name in the OpenAI API. */
const CODES: Partial<Record<ProblemCode, string>> = {
  not_authenticated: 'invalid_api_key',
  conflicting_keys: 'invalid_api_key',
  rate_limited: 'rate_limit_exceeded',
  input_too_long: 'context_length_exceeded',
};
/** The lowest status of an error of the server. */
export const FIRST_SERVER_STATUS = 500;
const TOO_MANY_REQUESTS = 429;

function typeOf({ code, unit }: ErrorFacts): string {
  if (unit === 'tokens') return 'tokens';
  const status = statusOf(openAiErrors, code);
  if (status >= FIRST_SERVER_STATUS) return 'server_error';
  return status === TOO_MANY_REQUESTS ? 'requests' : 'invalid_request_error';
}

/** The field that an error is about, as its path: `input.2` or `dimensions`. */
function paramOf({ code, errors }: ErrorFacts): string | null {
  if (code === 'model_not_found' || code === 'wrong_task') return 'model';
  const pointer = errors?.[0]?.pointer.replace(/^\/parameters(?=\/)/, '');
  return pointer ? pointer.slice(1).replaceAll('/', '.') : null;
}

/** Errors as the OpenAI API writes them (https://platform.openai.com/docs/guides/error-codes). */
export const openAiErrors: FamilyErrors = {
  schema: errorSchema,
  body: (error) => ({
    error: {
      message: describeErrorFlat(error),
      type: typeOf(error),
      param: paramOf(error),
      code: CODES[error.code] ?? error.code,
    },
  }),
  statuses: {
    invalid_api_key: 401,
    validation_failed: 400,
    input_too_long: 400,
    wrong_parameter: 400,
    wrong_task: 400,
    cost_over_limit: 400,
    idempotency_mismatch: 400,
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

/** What OpenAI calls the routes whose requests a batch may have. */
export const batchEndpointSchema = z.enum(['/v1/embeddings', '/v1/moderations']);
export type BatchEndpoint = z.infer<typeof batchEndpointSchema>;

/** Ids of uploaded files, and of the files that a batch gives. */
const FILE_ID = /^file-[0-9a-f]{32}(-output|-errors)?$/;
const BATCH_ID = /^batch_[0-9a-f]{32}$/;
const MAX_FILES_PAGE = 10_000;
const MAX_BATCHES_PAGE = 100;
const DEFAULT_BATCHES_PAGE = 20;
const MAX_METADATA = 16;

/** The form of `POST /v1/files`. */
const fileForm = z.object({
  purpose: z.literal('batch'),
  file: z.string().min(1).meta({ format: 'binary', description: 'JSONL: a request on each line' }),
});

export const fileSchema = z
  .object({
    id: z.string(),
    object: z.literal('file'),
    bytes: z
      .int()
      .nullable()
      .meta({ description: 'null in a list for the output of a batch that has not been read yet' }),
    created_at: z.int().meta({ description: 'Unix seconds, like all times here' }),
    expires_at: z.int().nullable(),
    filename: z.string(),
    purpose: z.enum(['batch', 'batch_output']),
    status: z.literal('processed'),
  })
  .meta({ id: 'OpenAiFile' });
export type OpenAiFile = z.infer<typeof fileSchema>;

const listOf = (item: z.ZodType) =>
  z.object({
    object: z.literal('list'),
    data: z.array(item),
    first_id: z.string().nullable(),
    last_id: z.string().nullable(),
    has_more: z.boolean(),
  });

const after = z.string().optional().meta({ description: 'The id of the last one of the previous page' });
const limitUpTo = (max: number, standard: number) =>
  z.preprocess(numberIn, z.int().min(1).max(max).default(standard));
export const filesQuery = z.object({
  purpose: z.string().optional(),
  limit: limitUpTo(MAX_FILES_PAGE, MAX_FILES_PAGE),
  order: z.enum(['asc', 'desc']).default('desc'),
  after,
});
export const batchesQuery = z.object({ limit: limitUpTo(MAX_BATCHES_PAGE, DEFAULT_BATCHES_PAGE), after });

/** The body of `POST /v1/batches`. */
export const createBatchBody = z.object({
  input_file_id: z.string(),
  endpoint: batchEndpointSchema,
  completion_window: z.literal('24h'),
  metadata: z
    .record(z.string().max(64), z.string().max(512))
    .refine((entries) => Object.keys(entries).length <= MAX_METADATA, `At most ${MAX_METADATA} entries`)
    .nullish()
    .meta({ maxProperties: MAX_METADATA }),
  output_expires_after: z.null('Not supported: files expire after FILE_TTL_SECONDS of the server').optional(),
});

const batchErrorSchema = z.object({
  code: z.string(),
  line: z.int().nullable(),
  message: z.string(),
  param: z.string().nullable(),
});
const time = z.int().nullable();
export const openAiBatchSchema = z
  .object({
    id: z.string(),
    object: z.literal('batch'),
    endpoint: z.string(),
    model: z.string(),
    errors: z.object({ object: z.literal('list'), data: z.array(batchErrorSchema) }).nullable(),
    input_file_id: z.string(),
    completion_window: z.string(),
    status: z.enum(['in_progress', 'completed', 'failed', 'expired', 'cancelled']),
    output_file_id: z.string().nullable(),
    error_file_id: z.string().nullable(),
    created_at: z.int(),
    in_progress_at: time,
    expires_at: time,
    finalizing_at: time,
    completed_at: time,
    failed_at: time,
    expired_at: time,
    cancelling_at: time,
    cancelled_at: time,
    request_counts: z.object({ total: z.int(), completed: z.int(), failed: z.int() }),
    metadata: z.record(z.string(), z.string()).nullable(),
  })
  .meta({ id: 'OpenAiBatch' });
export type OpenAiBatch = z.infer<typeof openAiBatchSchema>;

/** A line of the file of a batch; its body is that of the endpoint. */
export const batchRequestSchema = z.object({
  custom_id: z.string().min(1).max(256),
  method: z.literal('POST'),
  url: z.string(),
  body: z.record(z.string(), z.unknown()),
});

const family = { tag: 'OpenAI', errors: openAiErrors } as const;
const inference = {
  ...work,
  ...family,
  largeBody: true,
  problems: ['model_not_found', 'wrong_task', 'input_too_long', ...workProblems],
} as const;

const fileRoute = {
  ...jobs,
  ...family,
  params: z.object({ id: z.string().regex(FILE_ID) }),
  problems: ['not_found'],
} as const;
const batchRoute = {
  ...jobs,
  ...family,
  params: z.object({ id: z.string().regex(BATCH_ID) }),
  answer: openAiBatchSchema,
  problems: ['not_found'],
} as const;

/** The table of routes in the shape of the OpenAI API. */
export function openAiRoutesFor(bounds: Bounds) {
  const embeddings = {
    ...inference,
    task: 'feature-extraction',
    summary: 'Embeddings of texts',
    body: embeddingsBody(bounds),
    answer: embeddingsSchema,
  } as const;
  return {
    embeddings: { ...embeddings, path: '/v1/embeddings' },
    embeddingsWithoutVersion: { ...embeddings, path: '/embeddings' },
    moderations: {
      ...inference,
      task: 'text-classification',
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
    createFile: {
      ...work,
      ...family,
      access: 'batch',
      path: '/v1/files',
      summary: 'Upload a file of requests, for a batch',
      body: fileForm,
      bodyType: 'multipart/form-data',
      upload: true,
      answer: fileSchema,
      problems: [
        'file_too_large',
        'file_allowance_used',
        'too_many_uploads',
        'nearly_full',
        'storage_full',
        'unavailable',
      ],
    },
    files: {
      ...jobs,
      ...family,
      method: 'get',
      path: '/v1/files',
      summary: 'Files of the key, and the outputs of its batches',
      query: filesQuery,
      answer: listOf(fileSchema),
      problems: ['not_found'],
    },
    file: { ...fileRoute, method: 'get', path: '/v1/files/:id', summary: 'One file', answer: fileSchema },
    deleteFile: {
      ...fileRoute,
      method: 'delete',
      path: '/v1/files/:id',
      summary: 'Delete an uploaded file; batches that were made from it go on',
      answer: z.object({ id: z.string(), object: z.literal('file'), deleted: z.literal(true) }),
      problems: ['not_found', 'validation_failed'],
    },
    fileContent: {
      ...fileRoute,
      method: 'get',
      path: '/v1/files/:id/content',
      summary: 'The content of a file',
      answer: z.string(),
      mediaType: 'application/octet-stream',
    },
    createBatch: {
      ...work,
      ...family,
      access: 'batch',
      path: '/v1/batches',
      summary: 'Submit the requests of a file as a batch, which is a job too',
      body: createBatchBody,
      headers: batchHeaders,
      answer: openAiBatchSchema,
      problems: [
        'not_found',
        'idempotency_mismatch',
        'batch_too_large',
        'bulk_allowance_used',
        'nearly_full',
        'storage_full',
        'unavailable',
      ],
    },
    batches: {
      ...jobs,
      ...family,
      method: 'get',
      path: '/v1/batches',
      summary: 'Batches of the key, newest first',
      query: batchesQuery,
      answer: listOf(openAiBatchSchema),
      problems: ['not_found'],
    },
    batch: { ...batchRoute, method: 'get', path: '/v1/batches/:id', summary: 'One batch' },
    cancelBatch: {
      ...batchRoute,
      method: 'post',
      path: '/v1/batches/:id/cancel',
      summary: 'Cancel a batch; one that has already ended stays as it is. Uses no slot',
    },
  } as const satisfies Record<string, Route>;
}

export type OpenAiRoutes = ReturnType<typeof openAiRoutesFor>;
