import { openAiErrors, type ProblemCode, statusOf } from '@sluice/contract';
import { describeFlat, type ErrorFormat, type Problem } from '../../http/problem.js';
import { RateLimited } from '../../limits/rateLimit.js';
import { openAiLimitHeaders } from './limitHeaders.js';

/** Codes that have another name in the OpenAI API. */
const CODES: Partial<Record<ProblemCode, string>> = {
  not_authenticated: 'invalid_api_key',
  conflicting_keys: 'invalid_api_key',
  rate_limited: 'rate_limit_exceeded',
  input_too_long: 'context_length_exceeded',
};
/** OpenAI's clients retry 408 and 429 by themselves; for these errors a retry fails again. */
const NOT_RETRYABLE: ReadonlySet<ProblemCode> = new Set(['analysis_timed_out', 'file_allowance_used']);
/** The lowest status of an error of the server. */
export const FIRST_SERVER_STATUS = 500;
const TOO_MANY_REQUESTS = 429;

function typeOf(code: ProblemCode): string {
  const status = statusOf(openAiErrors, code);
  if (status >= FIRST_SERVER_STATUS) return 'server_error';
  return status === TOO_MANY_REQUESTS ? 'requests' : 'invalid_request_error';
}

/** The field that an error is about, as its path: `input.2` or `dimensions`. */
function paramOf({ code, errors }: Problem): string | null {
  if (code === 'model_not_found' || code === 'wrong_task') return 'model';
  const pointer = errors?.[0]?.pointer.replace(/^\/parameters(?=\/)/, '');
  return pointer ? pointer.slice(1).replaceAll('/', '.') : null;
}

/** Errors as the OpenAI API writes them (https://platform.openai.com/docs/guides/error-codes). */
export const openAiError: ErrorFormat = {
  contentType: 'application/json',
  errors: openAiErrors,
  headers: (problem) => ({
    ...(problem instanceof RateLimited ? openAiLimitHeaders(problem.windows) : {}),
    ...(NOT_RETRYABLE.has(problem.code) ? { 'x-should-retry': 'false' } : {}),
  }),
  body: (problem) => ({
    error: {
      message: describeFlat(problem),
      type: problem instanceof RateLimited && problem.unit === 'tokens' ? 'tokens' : typeOf(problem.code),
      param: paramOf(problem),
      code: CODES[problem.code] ?? problem.code,
    },
  }),
};
