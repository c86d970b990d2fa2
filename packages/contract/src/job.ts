import * as z from 'zod';
import { inputDocs, parametersDocs } from './input.js';
import { keyIdSchema, webhookUrlSchema } from './key.js';
import { type Bounds, modelId, textSchema } from './prediction.js';

/** Maximum number of entries of a page. */
const MAX_PAGE = 1_000;

/** The parameters of a task; the model's task checks them. */
export const parametersSchema = (bounds: Pick<Bounds, 'models'>) =>
  z
    .record(z.string(), z.unknown())
    .nullish()
    .meta({
      ...parametersDocs(bounds),
      description: "Parameters of the model's task, for all inputs; `GET /models` has their schema",
    });

/** What applies to a whole batch. */
const batchOptions = (bounds: Pick<Bounds, 'models'>) => ({
  model: modelId(bounds),
  parameters: parametersSchema(bounds),
  webhook: z
    .object({ url: webhookUrlSchema })
    .nullish()
    .meta({ description: 'URL that is notified when the job ends. The key needs a signing secret' }),
});

/** An input of a batch as it was sent, with the caller's own id. */
export type BatchItem = ({ text: string } | { input: unknown }) & { id?: string | number };

const ONE_OF = 'Give either "texts" or "inputs"';

/** The JSON body of `POST /analyze_batch`. */
export function batchBody(bounds: Bounds) {
  const { maxTextChars, maxBatchTexts } = bounds;
  return z
    .object({
      texts: z.array(textSchema(maxTextChars)).min(1).optional().meta({ maxItems: maxBatchTexts }),
      inputs: z
        .array(z.unknown().meta(inputDocs(bounds)))
        .min(1)
        .optional()
        .meta({
          maxItems: maxBatchTexts,
          description: "Inputs of the model's task that are not plain texts, instead of `texts`",
        }),
      ...batchOptions(bounds),
    })
    .meta({ oneOf: [{ required: ['texts'] }, { required: ['inputs'] }] })
    .superRefine(({ texts, inputs }, context) => {
      if (texts && inputs) context.addIssue({ code: 'custom', path: ['inputs'], message: ONE_OF });
      else if (!texts && !inputs) context.addIssue({ code: 'custom', path: ['texts'], message: ONE_OF });
    })
    .transform(({ texts, inputs = [], model, parameters, webhook }) => ({
      model,
      parameters: parameters ?? undefined,
      webhook: webhook ?? undefined,
      items: texts
        ? texts.map((text): BatchItem => ({ text }))
        : inputs.map((input): BatchItem => ({ input })),
    }));
}

const ID_ERROR = 'An id is a string of at most 256 characters or a whole number';
/** The caller's own id of an item, which its result repeats. */
export const itemIdSchema = z
  .union([z.string(), z.number()], ID_ERROR)
  .refine((id) => (typeof id === 'string' ? id.length <= 256 : Number.isSafeInteger(id)), ID_ERROR)
  .meta({ anyOf: [{ type: 'string', maxLength: 256 }, { type: 'integer' }] });

/**
 * A line of an `application/x-ndjson` body in each form: a text, or an object with a text or an input, and the caller's own
 * id. The first line may be `{"batch": {…}}`.
 */
export function batchLine(bounds: Pick<Bounds, 'maxTextChars' | 'models'>) {
  const text = textSchema(bounds.maxTextChars);
  const id = itemIdSchema.optional();
  return {
    text: text.transform((value): BatchItem => ({ text: value })),
    object: z
      .object({ id, text }, 'neither a JSON string nor an object with "text"')
      .transform(
        ({ id: own, text: value }): BatchItem =>
          own === undefined ? { text: value } : { text: value, id: own },
      ),
    input: z
      .object({
        id,
        input: z.unknown().meta(inputDocs(bounds)),
        text: z.never('Give either "text" or "input"').optional(),
      })
      .transform(({ id: own, input }): BatchItem => (own === undefined ? { input } : { input, id: own })),
    batch: z.object({
      batch: z.object(batchOptions(bounds)),
    }),
  };
}

/** Characters of an `Idempotency-Key`. */
const MAX_IDEMPOTENCY_KEY_CHARS = 255;

/** Header fields of `POST /analyze_batch`. */
export const batchHeaders = z.object({
  'Idempotency-Key': z
    .string()
    .trim()
    .min(1, `It must have 1 to ${MAX_IDEMPOTENCY_KEY_CHARS} characters`)
    .max(MAX_IDEMPOTENCY_KEY_CHARS, `It must have 1 to ${MAX_IDEMPOTENCY_KEY_CHARS} characters`)
    .optional()
    .meta({
      description:
        'Requests of an API key with the same value and body give the same job, as long as that job lives',
    }),
});

export function batchQuery(bounds: Bounds) {
  return z.object({ model: modelId(bounds) });
}

export const acceptedSchema = z
  .object({
    message: z.literal('Processing started'),
    job_id: z.string(),
    status: z.enum(['queued', 'running', 'completed']),
    total: z.int().min(1),
    status_url: z.string(),
  })
  .meta({ id: 'Accepted' });
export type Accepted = z.infer<typeof acceptedSchema>;

export const jobSchema = z
  .object({
    job_id: z.string(),
    model: z.string(),
    revision: z.string().meta({ description: 'Revision of the model' }),
    status: z.enum(['queued', 'running', 'completed', 'failed', 'canceled']).meta({
      description:
        '`completed`: each text has its answer or its own error. `failed`: the job as a whole failed',
    }),
    total: z.int().min(0).meta({ description: 'Items: texts, or requests of an OpenAI batch' }),
    completed: z.int().min(0).meta({ description: 'Items with an answer' }),
    failed: z.int().min(0).meta({ description: 'Items that failed' }),
    progress: z.number().min(0).max(1),
    created_at: z.iso.datetime(),
    started_at: z.iso.datetime().nullable(),
    finished_at: z.iso.datetime().nullable(),
    expires_at: z.iso.datetime().nullable(),
    results_url: z.string(),
    error: z.string().nullable(),
  })
  .meta({ id: 'Job' });
export type JobBody = z.infer<typeof jobSchema>;

/** A job as the operator sees it: whose it is and how fast it goes, without texts. */
export const adminJobSchema = jobSchema
  .omit({ results_url: true })
  .extend({
    key_id: z.string(),
    key_name: z.string().nullable().meta({ description: 'null if the record of the key was deleted' }),
    age_seconds: z.number().min(0).meta({ description: 'Seconds since the job was accepted' }),
    items_per_second: z.number().min(0).nullable().meta({
      description:
        'Mean rate since the first results were stored, until now or its end; null in the first second',
    }),
  })
  .meta({ id: 'AdminJob' });
export type AdminJob = z.infer<typeof adminJobSchema>;

export const adminJobsSchema = z.object({
  jobs: z.array(adminJobSchema),
  next_cursor: z.string().nullable(),
});

/** A Server-Sent Event (https://html.spec.whatwg.org/multipage/server-sent-events.html). */
export const jobEventSchema = z.object({
  event: z.enum(['progress', 'completed', 'failed', 'canceled']),
  data: z.string().meta({ description: 'The job in JSON, as in `GET /jobs/:id`' }),
});

export const jobResultSchema = z
  .object({
    index: z.int().min(0),
    id: itemIdSchema.optional(),
    text: z.string().optional().meta({ description: 'The text as sent' }),
    input: z.unknown().optional().meta({ description: 'The input as sent, if it was sent as `input`' }),
    inputs: z.array(z.unknown()).optional().meta({
      description: 'The inputs of a request of an OpenAI batch; `output` is the list of their outputs',
    }),
    output: z.unknown().optional().meta({ description: "The output of the model's task" }),
    tokens: z.int().min(0).optional().meta({ description: 'Tokens that the model read' }),
    sentiment: z.string().optional(),
    confidence: z.number().optional(),
    truncated: z.literal(true).optional(),
    error: z.object({ code: z.string(), detail: z.string() }).optional(),
  })
  .meta({ id: 'Result' });
export type JobResult = z.infer<typeof jobResultSchema>;

export const resultsSchema = z
  .object({ results: z.array(jobResultSchema), next_cursor: z.string().nullable() })
  .meta({ id: 'Results' });
export type ResultsPage = z.infer<typeof resultsSchema>;

export const jobsSchema = z
  .object({ jobs: z.array(jobSchema), next_cursor: z.string().nullable() })
  .meta({ id: 'Jobs' });
export type JobsPage = z.infer<typeof jobsSchema>;

/** The id of an OpenAI batch, or its digits, is that of a job without its dashes. */
const BATCH_ID = /^(?:batch_)?([0-9a-f]{8})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{12})$/;
export const jobParams = z.object({
  id: z.preprocess(
    (id) => (typeof id === 'string' ? id.replace(BATCH_ID, '$1-$2-$3-$4-$5') : id),
    z.uuid().toLowerCase(),
  ),
});

/** Entries of a page if the request does not say. */
export const DEFAULT_PAGE = 100;
/** A number in a query. Text that is not a number is passed on, so that the schema refuses it. */
export const numberIn = (value: unknown) =>
  typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : value;
const PAGE_ERROR = `It must be a whole number from 1 to ${MAX_PAGE}`;
const count = z.int(PAGE_ERROR).min(1, PAGE_ERROR).max(MAX_PAGE, PAGE_ERROR);
const limit = z.preprocess(numberIn, count.default(DEFAULT_PAGE)).meta({
  description: `Maximum number of entries of the page, up to ${MAX_PAGE}`,
});
/** A position in the list. Clients must not interpret it. */
const CURSOR = /^p(\d{1,9})$/;
export const cursorOf = (offset: number): string => `p${offset}`;
/** The position that a cursor encodes; 0 without one. */
export const offsetOf = (given: string | undefined): number => Number(CURSOR.exec(given ?? '')?.[1] ?? 0);
const cursor = z
  .string()
  .regex(CURSOR, 'Not a cursor of this API')
  .optional()
  .meta({ description: '`next_cursor` of the previous page' });

export const pageQuery = z.object({ limit, cursor });
/** Unknown parameters are refused: a misspelled filter would list the jobs of all keys. */
export const adminPageQuery = pageQuery.strict();
export const adminJobsQuery = adminPageQuery.extend({
  key: keyIdSchema.optional().meta({ description: 'Only the jobs of the key with this id' }),
  status: jobSchema.shape.status.optional().meta({ description: 'Only jobs with this status' }),
});
export const resultsQuery = pageQuery.extend({
  encoding_format: z
    .enum(['float', 'base64'])
    .default('float')
    .meta({ description: 'Vectors as lists of numbers, or as base64 of little-endian float32' }),
  limit: z.preprocess(numberIn, count.optional()).meta({
    description: `Maximum number of results, up to ${MAX_PAGE}; ${DEFAULT_PAGE} if not given, and all of them as NDJSON`,
  }),
  partial: z
    .enum(['true', 'false'])
    .default('false')
    .transform((text) => text === 'true')
    .meta({
      description:
        'While the job is unfinished: return the results up to the first unfinished text instead of 409',
    }),
});
