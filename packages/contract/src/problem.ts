import { z } from 'zod';

/**
 * Every error a client can meet: its status, the title of that status (RFC 9110), and the default `detail`.
 * Sent as `application/problem+json` (RFC 9457).
 */
export const problems = {
  bad_request: { status: 400, title: 'Bad Request', detail: 'The request is not valid HTTP' },
  invalid_json: { status: 400, title: 'Bad Request', detail: 'The body is not valid JSON' },
  invalid_encoding: { status: 400, title: 'Bad Request', detail: 'The body is not valid UTF-8' },
  not_authenticated: { status: 401, title: 'Unauthorized', detail: 'Not authenticated' },
  conflicting_keys: {
    status: 401,
    title: 'Unauthorized',
    detail: 'The request carries different keys',
  },
  invalid_api_key: { status: 403, title: 'Forbidden', detail: 'Invalid API key' },
  invalid_admin_token: { status: 401, title: 'Unauthorized', detail: 'Invalid admin token' },
  missing_scope: { status: 403, title: 'Forbidden', detail: 'This API key lacks a scope' },
  not_found: { status: 404, title: 'Not Found', detail: 'Not Found' },
  method_not_allowed: { status: 405, title: 'Method Not Allowed', detail: 'Method Not Allowed' },
  results_not_ready: {
    status: 409,
    title: 'Conflict',
    detail: 'The job is not finished; ask later, or with partial=true for its finished beginning',
  },
  idempotency_arriving: {
    status: 409,
    title: 'Conflict',
    detail: 'The first request with this Idempotency-Key is still arriving',
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
  batch_too_large: { status: 413, title: 'Content Too Large', detail: 'The batch has too many texts' },
  unsupported_media_type: {
    status: 415,
    title: 'Unsupported Media Type',
    detail: 'Send application/json (a batch also as application/x-ndjson) in UTF-8, plain or gzip',
  },
  expectation_failed: {
    status: 417,
    title: 'Expectation Failed',
    detail: 'Only "Expect: 100-continue" is understood',
  },
  validation_failed: {
    status: 422,
    title: 'Unprocessable Content',
    detail: 'The request does not fit the schema',
  },
  idempotency_mismatch: {
    status: 422,
    title: 'Unprocessable Content',
    detail: 'This Idempotency-Key stands for another body',
  },
  rate_limited: {
    status: 429,
    title: 'Too Many Requests',
    detail: 'Rate limit exceeded. Please try again later.',
  },
  bulk_allowance_used: {
    status: 429,
    title: 'Too Many Requests',
    detail: "The key's bulk allowance is used up by unfinished batches. Please try again later.",
  },
  too_many_failures: {
    status: 429,
    title: 'Too Many Requests',
    detail: 'Too many failed authentications from this address. Please try again later.',
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
    detail: 'Overloaded: the answer would come too late. Please try again later.',
  },
  no_worker: { status: 503, title: 'Service Unavailable', detail: 'No live worker serves this model' },
  nearly_full: {
    status: 503,
    title: 'Service Unavailable',
    detail: 'No room for another batch. Please try again later.',
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
    detail: z.string().meta({ description: 'What went wrong, for a person' }),
    code: z.string().meta({ description: 'What went wrong, for a program' }),
    request_id: z.string().meta({ description: 'The `X-Request-Id` of this answer' }),
    errors: z
      .array(
        z.object({
          pointer: z.string().meta({ description: 'JSON Pointer (RFC 6901) into the body' }),
          detail: z.string(),
        }),
      )
      .optional()
      .meta({ description: 'With 422: each thing that is wrong' }),
  })
  .meta({ id: 'Problem', description: 'An error (RFC 9457)' });

export type ProblemBody = z.infer<typeof problemSchema>;
