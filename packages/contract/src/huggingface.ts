import { z } from 'zod';
import { inputDocs } from './input.js';
import { parametersSchema } from './job.js';
import { type Bounds, timeoutSeconds } from './prediction.js';

/** The body of `POST /models/<id>`, in the shape of the Hugging Face Inference API. */
export function inferenceBody(bounds: Bounds) {
  // Embeddings have their parameters also beside the inputs.
  return z.looseObject({
    inputs: z
      .unknown()
      .refine((inputs) => inputs !== undefined, 'Give "inputs"')
      .meta({
        ...inputsDocs(inputDocs(bounds)),
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

/** An input, or a list of them. */
const inputsDocs = (input: Record<string, unknown>) => ({
  anyOf: [input, { type: 'array', minItems: 1, items: input }],
});

/** An error in the shape of the Hugging Face Inference API. */
export const inferenceErrorSchema = z
  .object({
    error: z.string(),
    errors: z
      .array(z.object({ pointer: z.string(), detail: z.string() }))
      .optional()
      .meta({ description: 'For 422: each invalid value, by its JSON Pointer' }),
  })
  .meta({ id: 'InferenceError', description: 'An error of the Hugging Face family' });
