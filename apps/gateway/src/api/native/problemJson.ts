import { type ProblemBody, problems } from '@sluice/contract';
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
