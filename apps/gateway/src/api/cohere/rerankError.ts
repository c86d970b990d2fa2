import { cohereErrors } from '@sluice/contract';
import { describeFlat, type ErrorFormat } from '../../http/problem.js';

/** Errors as Cohere (`message`) and Jina (`detail`) write them. */
export const rerankError: ErrorFormat = {
  contentType: 'application/json',
  errors: cohereErrors,
  body: (problem) => ({ message: describeFlat(problem), detail: describeFlat(problem) }),
};
