import { type ProblemCode, statusOf, teiErrors } from '@sluice/contract';
import { describeFlat, type ErrorFormat } from '../../http/problem.js';

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

/** Errors as text-embeddings-inference writes them. */
export const teiError: ErrorFormat = {
  contentType: 'application/json',
  errors: teiErrors,
  body: (problem) => ({ error: describeFlat(problem), error_type: typeOf(problem.code) }),
};
