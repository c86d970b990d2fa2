import { describeError, type ProblemBody, problems } from '@sluice/contract';
import type { ErrorFormat } from '../../http/problem.js';

/** Errors as `application/problem+json` (RFC 9457). */
export const problemJson: ErrorFormat = {
  contentType: 'application/problem+json',
  body: ({ code, status, message, errors, extensions }, requestId): ProblemBody => ({
    type: `/errors/${code}`,
    title: problems[code].title,
    status,
    detail: message,
    code,
    request_id: requestId,
    ...(errors ? { errors } : {}),
    ...extensions,
  }),
};

/**
 * The same with the members that clients of the other families read. It is for what is refused before the family is
 * known: a path that several families share, or one that nobody has.
 */
export const anyFamilyProblemJson: ErrorFormat = {
  ...problemJson,
  body: (problem, requestId) => ({
    ...problemJson.body(problem, requestId),
    error: describeError(problem),
    message: describeError(problem),
  }),
};
