import { cohereErrors } from '@sluice/contract';
import { describe, type ErrorFormat } from '../../http/problem.js';

/** Errors as Cohere (`message`) and Jina (`detail`) write them. */
export const rerankError: ErrorFormat = {
  contentType: 'application/json',
  errors: cohereErrors,
  body: (problem) => ({ message: describe(problem), detail: describe(problem) }),
};
