import * as z from 'zod';
import { json } from '../json.js';
import { traceContextSchema } from '../telemetry/tracing.js';

/** A chunk, the unit that a worker takes, has up to this many items, and rows; a single item may have more rows. */
export const CHUNK_ITEMS = 32;
export const CHUNK_ROWS = 256;

export const jobStatusSchema = z.enum(['queued', 'running', 'completed', 'failed', 'canceled']);
export type JobStatus = z.infer<typeof jobStatusSchema>;

export const isFinished = (status: JobStatus): boolean => status !== 'queued' && status !== 'running';

const id = z.union([z.string(), z.number()]).optional();
/**
 * One item of a job as it was sent: a text, another input, or a request with several inputs and its own parameters; and the
 * caller's own id if it gave one.
 */
export const jobItemSchema = z.union([
  z.object({ text: z.string(), id }),
  z.object({
    inputs: z.array(z.unknown()).min(1),
    parameters: z.record(z.string(), z.unknown()),
    /** How the API family shows the outputs. */
    format: z.string().exactOptional(),
    id,
  }),
  z.object({ input: z.unknown(), id }),
]);
export type JobItem = z.infer<typeof jobItemSchema>;

/** The inputs of an item, for the model's task. */
export function inputsOf(item: JobItem): readonly unknown[] {
  if ('text' in item) return [item.text];
  return 'inputs' in item ? item.inputs : [item.input];
}

/** The stored result of one item. */
export const storedResultSchema = z.union([
  z.object({
    error: z.enum(['analysis_timed_out', 'analysis_failed', 'input_too_long', 'wrong_parameter']),
    /** What is wrong, where the code does not say all of it. */
    detail: z.string().optional(),
  }),
  z.object({
    /** The model's task parses it. Of an item with several inputs, the list of their outputs. */
    output: z.unknown(),
    /** Tokens that the model read. */
    tokens: z.int().min(0),
    /** Present if the input was truncated. */
    truncated: z.literal(true).optional(),
  }),
]);
export type StoredResult = z.infer<typeof storedResultSchema>;

/** Version of the records of jobs; `accept.lua` writes it. */
export const RECORD_VERSION = '4';

const number = z.coerce.number();
export const jobRecordSchema = z
  .object({
    v: z.literal(RECORD_VERSION),
    id: z.string(),
    key_id: z.string(),
    model: z.string(),
    revision: z.string(),
    spec_hash: z.string(),
    parameters: json(z.unknown()),
    status: jobStatusSchema,
    total: number,
    chunks: number,
    stored: number,
    completed: number,
    failed: number,
    created_at_ms: number,
    started_at_ms: number.optional(),
    finished_at_ms: number.optional(),
    expires_at_ms: number.optional(),
    error: z.string().optional(),
    details: json(z.unknown()).optional(),
    trace: json(traceContextSchema).optional(),
  })
  .transform((record) => ({
    id: record.id,
    keyId: record.key_id,
    modelId: record.model,
    revision: record.revision,
    /** Of the model spec: all items of a job are answered by the same model. */
    specHash: record.spec_hash,
    /** Of every item of the job; the model's task parses them. */
    parameters: record.parameters,
    status: record.status,
    total: record.total,
    chunks: record.chunks,
    /** Chunks whose results are stored. */
    stored: record.stored,
    /** Items with an answer. */
    completed: record.completed,
    /** Items with an error of their own. */
    failed: record.failed,
    createdAtMs: record.created_at_ms,
    startedAtMs: record.started_at_ms,
    finishedAtMs: record.finished_at_ms,
    expiresAtMs: record.expires_at_ms,
    error: record.error,
    /** What the API family that created the job keeps with it. */
    details: record.details,
    /** The trace of the request that created the job. */
    trace: record.trace,
  }));

/** The record of a job: the only source of truth about it. */
export type JobRecord = z.infer<typeof jobRecordSchema>;

/** Parses the fields of a record in Redis. Returns undefined for a job that does not exist, or whose record has another version. */
export const jobRecordOf = (stored: Record<string, string>): JobRecord | undefined =>
  stored.v === RECORD_VERSION ? jobRecordSchema.parse(stored) : undefined;

/** The ids by which the scripts find a job. */
export type JobRef = Pick<JobRecord, 'id' | 'keyId' | 'modelId'>;

/** Names one chunk of a job. */
export interface ChunkRef {
  jobId: string;
  chunk: number;
}

/** A chunk as the ZSET of chunks in flight names it: `<job>/<chunk>`. */
export const chunkRefSchema = z.string().transform((member, context): ChunkRef => {
  const [, jobId, chunk] = /^(.+)\/(\d+)$/.exec(member) ?? [];
  if (jobId !== undefined) return { jobId, chunk: Number(chunk) };
  context.addIssue({ code: 'custom', message: 'not a chunk' });
  return z.NEVER;
});
