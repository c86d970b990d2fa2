import * as z from 'zod';
import type { LimitUnit } from './account.js';

/**
 * Every error that a client can get: its status, the title of that status (RFC 9110), and the default `detail`.
 */
export const problems = {
  bad_request: { status: 400, title: 'Bad Request', detail: 'The request is not valid HTTP' },
  invalid_json: { status: 400, title: 'Bad Request', detail: 'The body is not valid JSON' },
  invalid_encoding: { status: 400, title: 'Bad Request', detail: 'The body is not valid UTF-8' },
  not_authenticated: { status: 401, title: 'Unauthorized', detail: 'Not authenticated' },
  conflicting_keys: {
    status: 401,
    title: 'Unauthorized',
    detail: 'The request contains different keys',
  },
  invalid_api_key: { status: 403, title: 'Forbidden', detail: 'Invalid API key' },
  invalid_admin_token: { status: 401, title: 'Unauthorized', detail: 'Invalid admin token' },
  missing_scope: { status: 403, title: 'Forbidden', detail: 'This API key lacks the required scope' },
  not_found: { status: 404, title: 'Not Found', detail: 'Not Found' },
  model_not_found: { status: 404, title: 'Not Found', detail: 'The model is not configured' },
  method_not_allowed: { status: 405, title: 'Method Not Allowed', detail: 'Method Not Allowed' },
  results_not_ready: {
    status: 409,
    title: 'Conflict',
    detail: 'The job is not finished. Retry later, or set partial=true for the results so far',
  },
  key_not_live: {
    status: 409,
    title: 'Conflict',
    detail: 'The key is revoked or expired',
  },
  analysis_timed_out: { status: 408, title: 'Request Timeout', detail: 'Analysis timed out' },
  request_timed_out: { status: 408, title: 'Request Timeout', detail: 'The request took too long to arrive' },
  body_too_large: { status: 413, title: 'Content Too Large', detail: 'The body is too large' },
  uri_too_long: { status: 414, title: 'URI Too Long', detail: 'The URL is too long' },
  batch_too_large: { status: 413, title: 'Content Too Large', detail: 'The job has too many inputs' },
  file_too_large: { status: 413, title: 'Content Too Large', detail: 'The file is too large' },
  file_allowance_used: {
    status: 429,
    title: 'Too Many Requests',
    detail: 'The files of this key have reached their maximum total size',
  },
  unsupported_media_type: {
    status: 415,
    title: 'Unsupported Media Type',
    detail: 'Send application/json (for a job also application/x-ndjson) in UTF-8, uncompressed or gzip',
  },
  expectation_failed: {
    status: 417,
    title: 'Expectation Failed',
    detail: 'Only "Expect: 100-continue" is supported',
  },
  validation_failed: {
    status: 422,
    title: 'Unprocessable Content',
    detail: 'The request does not match the schema',
  },
  input_too_long: {
    status: 422,
    title: 'Unprocessable Content',
    detail: 'The input has more tokens than the model can read, and "truncate" is false',
  },
  wrong_parameter: {
    status: 422,
    title: 'Unprocessable Content',
    detail: 'The model does not support the value of a parameter',
  },
  cost_over_limit: {
    status: 422,
    title: 'Unprocessable Content',
    detail: 'The request costs more than a limit of the key allows in one window',
  },
  wrong_task: {
    status: 422,
    title: 'Unprocessable Content',
    detail: 'The model is for another task',
  },
  idempotency_mismatch: {
    status: 422,
    title: 'Unprocessable Content',
    detail: 'Idempotency-Key was already used with a different body',
  },
  rate_limited: {
    status: 429,
    title: 'Too Many Requests',
    detail: 'Rate limit exceeded. Please try again later.',
  },
  bulk_allowance_used: {
    status: 429,
    title: 'Too Many Requests',
    detail: "The key's bulk allowance is used up by unfinished jobs. Please try again later.",
  },
  too_many_failures: {
    status: 429,
    title: 'Too Many Requests',
    detail: 'Too many failed authentications from this address. Please try again later.',
  },
  too_many_uploads: {
    status: 429,
    title: 'Too Many Requests',
    detail: 'The key uploads too many files at once. Wait until an upload has ended.',
  },
  too_many_streams: {
    status: 429,
    title: 'Too Many Requests',
    detail: 'The key holds too many streams of events at once. Close one, or try again later.',
  },
  headers_too_large: {
    status: 431,
    title: 'Request Header Fields Too Large',
    detail: 'The header fields are too large',
  },
  analysis_failed: { status: 500, title: 'Internal Server Error', detail: 'Analysis failed' },
  internal_error: { status: 500, title: 'Internal Server Error', detail: 'Internal error' },
  overloaded: {
    status: 503,
    title: 'Service Unavailable',
    detail: 'Overloaded: the answer would be too late. Please try again later.',
  },
  no_worker: { status: 503, title: 'Service Unavailable', detail: 'No live worker serves this model' },
  nearly_full: {
    status: 503,
    title: 'Service Unavailable',
    detail: 'Redis has too little memory for another job. Please try again later.',
  },
  storage_full: {
    status: 503,
    title: 'Service Unavailable',
    detail: 'The storage is full. Results can still be read. Please try again later.',
  },
  unavailable: {
    status: 503,
    title: 'Service Unavailable',
    detail: 'The service is temporarily unavailable',
  },
  shutting_down: { status: 503, title: 'Service Unavailable', detail: 'The server is shutting down' },
} as const satisfies Record<string, { status: number; title: string; detail: string }>;

export type ProblemCode = keyof typeof problems;

export const problemSchema = z
  .object({
    type: z.string().meta({ description: '`/errors/<code>`' }),
    title: z.string(),
    status: z.int().min(400).max(599),
    detail: z.string().meta({ description: 'Description of the error for people' }),
    code: z.string().meta({ description: 'Code of the error for programs' }),
    request_id: z.string().meta({ description: 'The `X-Request-Id` of this response' }),
    errors: z
      .array(
        z.object({
          pointer: z.string().meta({ description: 'JSON Pointer (RFC 6901) into the body' }),
          detail: z.string(),
        }),
      )
      .optional()
      .meta({ description: 'For 422: each invalid value' }),
  })
  .meta({ id: 'Problem', description: 'An error (RFC 9457)' });

export type ProblemBody = z.infer<typeof problemSchema>;

/** What the body of an error is made from. */
export interface ErrorFacts {
  code: ProblemCode;
  detail: string;
  errors?: ProblemBody['errors'];
  /** Of `rate_limited`: what the key has used up. */
  unit?: LimitUnit | undefined;
}

/** What is wrong, in one text: clients of other families show no other member. */
export function describeError({ detail, errors = [] }: ErrorFacts): string {
  const values = errors.map((error) =>
    error.pointer === '' ? error.detail : `${error.pointer}: ${error.detail}`,
  );
  return [detail, ...values].join('; ');
}

/** The same for a family whose bodies have the parameters at the root. */
export const describeErrorFlat = (error: ErrorFacts): string =>
  describeError(error).replaceAll('/parameters/', '/');
