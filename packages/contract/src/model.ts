import { z } from 'zod';

/** A configured model, with what live workers say of it; null where none has said. */
export const modelSchema = z
  .object({
    id: z.string(),
    task: z.literal('text-classification'),
    labels: z.array(z.string()).nullable(),
    max_tokens: z.int().min(1).nullable().meta({ description: 'A longer text is cut' }),
    revision: z.string(),
    dtype: z.string().nullable().meta({ description: 'Of the weights, as transformers.js names it' }),
    runtime: z
      .string()
      .nullable()
      .meta({
        description: 'What runs it: a score may depend on its version',
        examples: ['onnxruntime 1.30.0'],
      }),
    batching: z.boolean().nullable().meta({
      description: "Whether texts run together: only where scores do not change with a text's company",
    }),
    default: z.boolean().meta({ description: 'Whether it serves requests that name no model' }),
    workers: z.int().min(0).meta({ description: 'Live ones that serve it' }),
  })
  .meta({ id: 'Model' });
export const modelsSchema = z.array(modelSchema);
export type Model = z.infer<typeof modelSchema>;
