import { z } from 'zod';
import { type Bounds, labelScoreSchema, modelId, textSchema } from './prediction.js';

/** Most entries of a page. */
const MAX_PAGE = 1_000;

/** The JSON body of `POST /analyze_batch`. */
export function batchBody(bounds: Bounds) {
  const { maxTextChars, maxBatchTexts } = bounds;
  return z.object({
    texts: z.array(textSchema(maxTextChars)).min(1).meta({ maxItems: maxBatchTexts }),
    model: modelId(bounds),
  });
}

/** A line of an `application/x-ndjson` body, of each form: a text, or a text with the caller's own id for it. */
export function batchLine({ maxTextChars }: Bounds) {
  const text = textSchema(maxTextChars);
  return {
    text: text.transform((value): { text: string; id?: string } => ({ text: value })),
    object: z
      .object({ id: z.string().max(256).optional(), text }, 'neither a JSON string nor an object with "text"')
      .transform(({ id, text: value }): { text: string; id?: string } =>
        id === undefined ? { text: value } : { text: value, id },
      ),
  };
}

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
    revision: z.string().meta({ description: 'Of the model' }),
    status: z.enum(['queued', 'running', 'completed', 'failed', 'canceled']).meta({
      description:
        '`completed`: each text has an answer or an error of its own. `failed` is about the job as a whole',
    }),
    total: z.int().min(1),
    completed: z.int().min(0).meta({ description: 'Texts with an answer' }),
    failed: z.int().min(0).meta({ description: 'Texts with an error of their own' }),
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

/** An event of a stream (https://html.spec.whatwg.org/multipage/server-sent-events.html). */
export const jobEventSchema = z.object({
  event: z.enum(['progress', 'completed', 'failed', 'canceled']),
  data: z.string().meta({ description: 'The job, as `GET /jobs/:id` gives it, in JSON' }),
});

export const itemSchema = z
  .object({
    index: z.int().min(0),
    id: z.string().optional(),
    text: z.string(),
    output: z.array(labelScoreSchema).optional().meta({ description: "The pipeline's own result" }),
    sentiment: z.string().optional(),
    confidence: z.number().optional(),
    truncated: z.literal(true).optional(),
    error: z.object({ code: z.string(), detail: z.string() }).optional(),
  })
  .meta({ id: 'Result' });
export type ItemBody = z.infer<typeof itemSchema>;

export const resultsSchema = z
  .object({ results: z.array(itemSchema), next_cursor: z.string().nullable() })
  .meta({ id: 'Results' });
export type ResultsBody = z.infer<typeof resultsSchema>;

export const jobsSchema = z
  .object({ jobs: z.array(jobSchema), next_cursor: z.string().nullable() })
  .meta({ id: 'Jobs' });
export type JobsBody = z.infer<typeof jobsSchema>;

export const idParams = z.object({ id: z.string().min(1) });

const limit = z.coerce
  .number()
  .int()
  .min(1)
  .max(MAX_PAGE)
  .default(100)
  .meta({ description: `Entries of a page, up to ${MAX_PAGE}` });
/** Opaque to clients: a place in the list. */
const CURSOR = /^p(\d{1,9})$/;
export const cursorOf = (offset: number): string => `p${offset}`;
/** The place that a cursor stands for; 0 without one. */
export const offsetOf = (given: string | undefined): number => Number(CURSOR.exec(given ?? '')?.[1] ?? 0);
const cursor = z
  .string()
  .regex(CURSOR, 'No such cursor')
  .optional()
  .meta({ description: '`next_cursor` of the page before' });

export const pageQuery = z.object({ limit, cursor });
export const resultsQuery = pageQuery.extend({
  partial: z
    .enum(['true', 'false'])
    .default('false')
    .transform((text) => text === 'true')
    .meta({ description: 'While the job is unfinished: its finished beginning instead of 409' }),
});
