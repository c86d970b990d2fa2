import { taskNameSchema } from '@sluice/tasks';
import * as z from 'zod';

/** A configured model with what live workers report about it; null while no worker has reported. */
export const modelSchema = z
  .object({
    id: z.string(),
    aliases: z.array(z.string()),
    task: taskNameSchema,
    parameters: z
      .record(z.string(), z.unknown())
      .meta({ description: 'JSON Schema of the parameters of the task' }),
    labels: z
      .array(z.string())
      .nullable()
      .meta({ description: 'For classification tasks with fixed labels' }),
    dimensions: z.int().min(1).nullable().meta({ description: 'Length of a vector, for embeddings' }),
    max_tokens: z.int().min(1).nullable().meta({ description: 'Longer texts are truncated' }),
    max_text_chars: z.int().min(1).meta({ description: 'Longer texts are refused; in Unicode characters' }),
    revision: z.string(),
    dtype: z.string().nullable().meta({ description: 'Type of the weights, as transformers.js names it' }),
    runtime: z
      .string()
      .nullable()
      .meta({
        description: 'What runs the model; scores may depend on its version',
        examples: ['onnxruntime 1.30.0'],
      }),
    batching: z.boolean().nullable().meta({
      description:
        'Whether texts run together; only for models whose scores change by at most 1e-4 with batching',
    }),
    drift: z.number().nullable().meta({
      description:
        'The largest change of an output when rows run together; null if not measured yet, or if rows cannot run together',
    }),
    default: z.boolean().meta({ description: 'Whether it is the default model of its task' }),
    workers: z.int().min(0).meta({ description: 'Live workers that serve it' }),
    error: z.string().nullable().meta({
      description: 'Code of the reason why live workers cannot serve it; the log of the worker has the cause',
    }),
  })
  .meta({ id: 'Model' });
export const modelsSchema = z.array(modelSchema);
export type Model = z.infer<typeof modelSchema>;
