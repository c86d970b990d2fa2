import { existsSync, readFileSync } from 'node:fs';
import { type TaskName, taskNameSchema } from '@sluice/tasks';
import { findNodeAtLocation, type Node, type ParseError, parseTree, printParseErrorCode } from 'jsonc-parser';
import * as z from 'zod';
import { dtypeSchema, modelIdSchema, SettingsError } from './settings.js';

/** How an embedding is made of the vectors of the tokens. */
export const poolingSchema = z.enum(['mean', 'cls', 'max', 'last_token']);
export type Pooling = z.infer<typeof poolingSchema>;

const seconds = z.number().min(0.1).max(3600);

const fields = {
  id: modelIdSchema,
  aliases: z
    .array(modelIdSchema)
    .optional()
    .meta({ description: 'Other names under which requests find the model' }),
  task: taskNameSchema.meta({ description: 'What the model does' }),
  source: z.string().min(1).optional().meta({
    description:
      'A folder, relative to this file, or hub:owner/name on the Hugging Face Hub; if not given, the folder models/<id>, or for an id owner/name without such a folder that repository of the Hub',
  }),
  revision: z
    .string()
    .min(1)
    .optional()
    .meta({ description: 'Branch, tag or commit on the Hub; main if not given' }),
  dtype: dtypeSchema.optional().meta({ description: 'Type of the weights; q8 if not given' }),
  processes: z
    .int()
    .min(1)
    .max(1024)
    .optional()
    .meta({ description: 'Model processes of a worker; MODEL_PROCESSES if not given' }),
  micro_batch: z
    .strictObject({
      rows: z.int().min(1).max(4096).optional(),
      tokens: z.int().min(1).max(1_048_576).optional(),
    })
    .optional()
    .meta({ description: 'What a process runs at once at most; tokens include the padding' }),
  stall_seconds: seconds.optional().meta({
    description: 'Minimum time after which a run counts as hung; STALL_SECONDS if not given',
  }),
  timeout_seconds: seconds
    .optional()
    .meta({ description: 'Deadline of an interactive request; REQUEST_TIMEOUT_SECONDS if not given' }),
  max_tokens: z
    .int()
    .min(8)
    .optional()
    .meta({ description: 'Longest input in tokens, if less than what the model can read' }),
  threshold: z.number().min(0).max(1).optional().meta({
    description: 'text-classification: minimum at which `/v1/moderations` flags a category; 0.5 if not given',
  }),
  pooling: poolingSchema.optional().meta({
    description:
      "feature-extraction: how a vector is made; if not given, from the model's sentence-transformers files",
  }),
  normalize: z.boolean().optional().meta({
    description:
      "feature-extraction: whether vectors have length 1; if not given, from the model's sentence-transformers files",
  }),
  prompts: z.record(z.string(), z.string()).optional().meta({
    description:
      "feature-extraction: texts that precede an input, by name; if not given, from the model's sentence-transformers files",
  }),
};
/** Fields for one task alone. */
const TASK_FIELDS = {
  pooling: 'feature-extraction',
  normalize: 'feature-extraction',
  prompts: 'feature-extraction',
  threshold: 'text-classification',
} as const satisfies Partial<Record<keyof typeof fields, TaskName>>;

const entrySchema = z.strictObject(fields);
export type ModelEntry = z.infer<typeof entrySchema>;

/** The contents of `models.json`. */
export const modelsFileSchema = z
  .strictObject({
    $schema: z.string().optional(),
    models: z.array(entrySchema).min(1, 'It must list at least one model'),
  })
  .superRefine(({ models }, context) => {
    const seen = new Set<string>();
    for (const [i, entry] of models.entries()) {
      const names: [string, (string | number)[]][] = [
        [entry.id, ['models', i, 'id']],
        ...(entry.aliases ?? []).map((alias, j): [string, (string | number)[]] => [
          alias,
          ['models', i, 'aliases', j],
        ]),
      ];
      for (const [name, path] of names) {
        if (seen.has(name))
          context.addIssue({ code: 'custom', path, message: `"${name}" is used twice as an id or alias` });
        seen.add(name);
      }
      for (const [field, task] of Object.entries(TASK_FIELDS)) {
        if (!Object.hasOwn(entry, field) || entry.task === task) continue;
        context.addIssue({
          code: 'custom',
          path: ['models', i, field],
          message: `only for the task ${task}`,
        });
      }
    }
  });

/** The JSON Schema of `models.json`, for editors. */
export function modelsJsonSchema(): object {
  return { title: 'The models of Sluice', ...z.toJSONSchema(modelsFileSchema, { io: 'input' }) };
}

/**
 * Reads a `models.json`, in which comments are allowed.
 * @throws SettingsError that names the file, the line, the field and what is allowed
 */
export function readModelsFile(path: string): ModelEntry[] {
  if (!existsSync(path)) throw new SettingsError(`${path}: there is no such file`);
  const text = readFileSync(path, 'utf8').replace(/^\uFEFF/, '');
  const lineAt = (offset: number) => text.slice(0, offset).split('\n').length;
  const errors: ParseError[] = [];
  const tree = parseTree(text, errors, { allowTrailingComma: true });
  const [syntax] = errors;
  if (syntax || tree === undefined) {
    const reason = syntax ? printParseErrorCode(syntax.error) : 'it is empty';
    throw new SettingsError(`${path}: line ${lineAt(syntax?.offset ?? 0)}: not valid JSON: ${reason}`);
  }
  const twice = repeatedField(tree);
  if (twice)
    throw new SettingsError(`${path}: line ${lineAt(twice.offset)}: "${twice.value}" is present twice`);
  const parsed = modelsFileSchema.safeParse(jsonOf(tree));
  if (parsed.success) return parsed.data.models;
  throw new SettingsError(
    parsed.error.issues.map((issue) => `${path}: ${describe(issue, tree, lineAt)}`).join('; '),
  );
}

/** A property whose name is there twice in its object; JSON.parse would silently take the last one. */
function repeatedField(node: Node): Node | undefined {
  const seen = new Set<unknown>();
  for (const child of node.children ?? []) {
    const name = node.type === 'object' ? child.children?.[0] : undefined;
    if (name && seen.has(name.value)) return name;
    if (name) seen.add(name.value);
    const found = repeatedField(child);
    if (found) return found;
  }
  return undefined;
}

function jsonOf(node: Node): unknown {
  if (node.type === 'array') return (node.children ?? []).map(jsonOf);
  if (node.type !== 'object') return node.value;
  return Object.fromEntries(
    (node.children ?? []).map(({ children: [name, value] = [] }) => [name?.value, value && jsonOf(value)]),
  );
}

function describe(issue: z.core.$ZodIssue, tree: Node, lineAt: (offset: number) => number): string {
  const path = issue.path.map((part) => (typeof part === 'number' ? part : String(part)));
  const isUnknown = issue.code === 'unrecognized_keys';
  const place = isUnknown ? [...path, issue.keys[0] ?? ''] : path;
  // The place of a missing field is the object that lacks it.
  let node: Node | undefined;
  for (let length = place.length; node === undefined; length--)
    node = findNodeAtLocation(tree, place.slice(0, length));
  const line = `line ${lineAt(node.offset)}: "${place.join('.')}"`;
  if (!isUnknown) return `${line}: ${issue.message}`;
  const allowed =
    path.length === 0 ? ['models'] : path.length === 2 ? Object.keys(fields) : ['rows', 'tokens'];
  return `${line}: unknown field; allowed are ${allowed.join(', ')}`;
}
