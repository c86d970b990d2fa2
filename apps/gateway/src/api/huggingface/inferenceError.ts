import type { ErrorFormat } from '../../http/problem.js';

/** Errors as the Hugging Face Inference API writes them. */
export const inferenceError: ErrorFormat = {
  contentType: 'application/json',
  body: ({ message, errors }) => ({
    // Clients show this text alone, so it names what is wrong.
    error: [
      message,
      ...(errors ?? []).map(({ pointer, detail }) => (pointer === '' ? detail : `${pointer}: ${detail}`)),
    ].join('; '),
    ...(errors ? { errors } : {}),
  }),
};
