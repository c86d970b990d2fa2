import { type TaskName, taskNamed } from '@sluice/tasks';
import * as z from 'zod';
import { type Bounds, textSchema } from './prediction.js';

export type Json = Record<string, unknown>;

/** JSON Schema of a schema, as a part of another one. */
export function partOf(schema: z.ZodType): Json {
  const { $schema, ...part } = z.toJSONSchema(schema, { io: 'input' });
  return part;
}

/** Schema of an input of a task, with the bounds of its texts. */
function inputSchema(task: TaskName, maxTextChars: number): z.ZodType {
  const text = textSchema(maxTextChars);
  switch (task) {
    case 'text-classification':
      return z.union([text, z.object({ text, text_pair: text })]);
    case 'text-ranking':
      return z.object({ query: text, texts: z.array(text).min(1) });
    default:
      return text;
  }
}

/** Schema of a value that fits one of several. */
export function eitherOf(parts: readonly Json[]): Json {
  const different = [...new Map(parts.map((part) => [JSON.stringify(part), part])).values()];
  return different.length === 1 && different[0] ? different[0] : { anyOf: different };
}

const tasksOf = (models: Bounds['models']) => [...new Set(models.map(({ task }) => task))];

/**
 * What the reference says of an input: one of the configured tasks takes it. The model's task checks it, and names what is
 * wrong better than a union of schemas could.
 */
export function inputDocs({ models, maxTextChars }: Pick<Bounds, 'models' | 'maxTextChars'>): Json {
  return eitherOf(tasksOf(models).map((task) => partOf(inputSchema(task, maxTextChars))));
}

/** What the reference says of a text. */
export const textDocs = (maxTextChars: number): Json => partOf(textSchema(maxTextChars));

/** What the reference says of an input, or a list of them. */
export const oneOrManyDocs = (input: Json): Json => ({
  anyOf: [input, { type: 'array', minItems: 1, items: input }],
});

/** The same for the parameters. */
export function parametersDocs({ models }: Pick<Bounds, 'models'>): Json {
  return { anyOf: [...tasksOf(models).map((task) => partOf(taskNamed(task).parameters)), { type: 'null' }] };
}
