import { openAiErrors, type ProblemCode } from '@sluice/contract';
import { errorFormatOf } from '../../http/problem.js';
import { RateLimited } from '../../limits/rateLimit.js';
import { openAiLimitHeaders } from './limitHeaders.js';

/** OpenAI's clients retry 408 and 429 by themselves; for these errors a retry fails again. */
const NOT_RETRYABLE: ReadonlySet<ProblemCode> = new Set(['analysis_timed_out', 'file_allowance_used']);

/** Errors of the OpenAI API, with its header fields. */
export const openAiError = errorFormatOf(openAiErrors, (problem) => ({
  ...(problem instanceof RateLimited ? openAiLimitHeaders(problem.windows) : {}),
  ...(NOT_RETRYABLE.has(problem.code) ? { 'x-should-retry': 'false' } : {}),
}));
