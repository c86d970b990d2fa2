import { huggingFaceErrors } from '@sluice/contract';
import { describe, type ErrorFormat } from '../../http/problem.js';

/** Errors as the Hugging Face Inference API writes them. */
export const inferenceError: ErrorFormat = {
  contentType: 'application/json',
  errors: huggingFaceErrors,
  body: (problem) => ({
    error: describe(problem),
    ...(problem.errors ? { errors: problem.errors } : {}),
  }),
};
