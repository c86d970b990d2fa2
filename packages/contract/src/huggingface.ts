import * as z from 'zod';
import { inputDocs, oneOrManyDocs } from './input.js';
import { parametersSchema } from './job.js';
import { type Bounds, modelParams, timeoutSeconds } from './prediction.js';
import { describeError } from './problem.js';
import { type FamilyErrors, type Route, work, workProblems } from './route.js';
import { isTeiOperation } from './tei.js';

/** The body of `POST /models/<id>`, in the shape of the Hugging Face Inference API. */
export function inferenceBody(bounds: Bounds) {
  // Embeddings have their parameters also beside the inputs.
  return z.looseObject({
    inputs: z
      .unknown()
      .refine((inputs) => inputs !== undefined, 'Give "inputs"')
      .meta({
        ...oneOrManyDocs(inputDocs(bounds)),
        description: "One input of the model's task, or a list of inputs",
        examples: ['This product is amazing!'],
      }),
    parameters: parametersSchema(bounds),
    timeout_seconds: timeoutSeconds({
      ...bounds,
      requestTimeoutSeconds: Math.max(bounds.requestTimeoutSeconds, bounds.bulkTimeoutSeconds),
    }),
  });
}

/** An error in the shape of the Hugging Face Inference API. */
const errorSchema = z
  .object({
    error: z.string(),
    errors: z
      .array(z.object({ pointer: z.string(), detail: z.string() }))
      .optional()
      .meta({ description: 'For 422: each invalid value, by its JSON Pointer' }),
  })
  .meta({ id: 'InferenceError', description: 'An error of the Hugging Face family' });

export const huggingFaceErrors: FamilyErrors = {
  schema: errorSchema,
  statuses: {},
  body: (error) => ({ error: describeError(error), ...(error.errors ? { errors: error.errors } : {}) }),
};

/** The table of routes in the shape of the Hugging Face Inference API. */
export function huggingFaceRoutesFor(bounds: Bounds) {
  return {
    infer: {
      ...work,
      path: '/models/*id',
      summary: 'The output of any model, in the shape of the Hugging Face Inference API',
      params: modelParams(bounds.models.map(({ name }) => name)),
      // Another method of an operation on a model is not allowed; it is not another model.
      takes: ({ id }) => !isTeiOperation(bounds, id),
      body: inferenceBody(bounds),
      largeBody: true,
      answer: z.unknown(),
      tag: 'Hugging Face Inference',
      errors: huggingFaceErrors,
      problems: ['model_not_found', 'input_too_long', ...workProblems],
    },
  } as const satisfies Record<string, Route>;
}

export type HuggingFaceRoutes = ReturnType<typeof huggingFaceRoutesFor>;
