import { labelScoreSchema as modelLabelScoreSchema, type TaskName } from '@sluice/tasks';
import * as z from 'zod';

/** Configured limits of the bodies. */
export interface Bounds {
  /** Maximum length of a text in Unicode characters (code points). */
  maxTextChars: number;
  /** Longest deadline of an interactive request, of all models, in seconds; a request may ask for a shorter one. */
  requestTimeoutSeconds: number;
  /** Deadline of a request in the bulk lane in seconds. */
  bulkTimeoutSeconds: number;
  /** Maximum number of texts of a job. */
  maxBatchTexts: number;
  /** Ids and aliases of the configured models, in the order of the configuration. */
  models: readonly { name: string; task: TaskName }[];
}

/** Shortest deadline that a request may ask for, in seconds. */
const MIN_TIMEOUT_SECONDS = 0.1;

/** The model that a request names. */
export function modelId({ models }: Pick<Bounds, 'models'>) {
  return z
    .enum(
      models.map(({ name }) => name),
      `This model is not configured; there are: ${models.map(({ name }) => name).join(', ')}`,
    )
    .optional()
    .meta({
      description: "Id or alias of a configured model; if not given, the first one of the route's task",
    });
}

/** What the reference says of the name of a model: those that there are. */
export const nameDocs = (names: readonly (string | null)[]) =>
  names.some((name) => name !== null) ? { enum: [...names] } : {};

/** Ids and aliases of the models for a task. */
export const namesFor = ({ models }: Pick<Bounds, 'models'>, task: TaskName): string[] =>
  models.flatMap((model) => (model.task === task ? [model.name] : []));

/**
 * The id or alias of a model, which may have slashes, as a part of a path.
 * @param names what the reference lists
 */
export const modelParams = (names: readonly string[]) =>
  z.object({
    id: z
      .array(z.string())
      .transform((parts) => parts.join('/'))
      .meta(nameDocs(names)),
  });

function characters(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}

/** Why a text is not accepted; undefined if it is. */
export function textProblem(text: string, maxTextChars: number): string | undefined {
  if (text.trim() === '') return 'The text is empty or only white space';
  if (text.length > maxTextChars && characters(text) > maxTextChars)
    return `The text is longer than ${maxTextChars} characters`;
  if (!text.isWellFormed()) return 'The text contains half a surrogate pair, which is not valid Unicode';
  return undefined;
}

/** JSON Schema counts `maxLength` in Unicode characters; zod's own `max` counts UTF-16 units. */
export function textSchema(maxTextChars: number) {
  return z
    .string()
    .superRefine((text, context) => {
      const message = textProblem(text, maxTextChars);
      if (message) context.addIssue({ code: 'custom', message });
    })
    .meta({
      minLength: 1,
      maxLength: maxTextChars,
      pattern: '\\S',
      description: 'The text; must not be only white space',
      examples: ['This product is amazing!'],
    });
}

/** The body of `POST /predict` and `POST /analyze_comment`. */
export function textBody(bounds: Bounds) {
  return z.object({
    text: textSchema(bounds.maxTextChars),
    model: modelId(bounds).meta(nameDocs(namesFor(bounds, 'text-classification'))),
    timeout_seconds: timeoutSeconds(bounds),
  });
}

/** A deadline that a request asks for. */
export function timeoutSeconds({ requestTimeoutSeconds }: Bounds) {
  return z
    .number()
    .min(Math.min(MIN_TIMEOUT_SECONDS, requestTimeoutSeconds))
    .max(requestTimeoutSeconds)
    .optional()
    .meta({
      description: "A shorter deadline than the model's, in seconds; a longer one has no effect",
      examples: [requestTimeoutSeconds],
    });
}

/** The body of `POST /analyze`. */
export function analyzeBody(bounds: Bounds) {
  return textBody(bounds).extend({
    top_k: z.int().min(1).default(1).meta({ description: 'How many labels to return, best first' }),
  });
}

export const labelScoreSchema = modelLabelScoreSchema
  .extend({
    label: z.string().meta({ examples: ['POSITIVE'] }),
    score: z.number().meta({ description: "The model's score for the label, not rounded" }),
  })
  .meta({ id: 'LabelScore' });

const truncated = z
  .literal(true)
  .optional()
  .meta({ description: 'Present if the text was truncated to the maximum number of tokens of the model' });

export const predictionSchema = z
  .object({
    text: z.string(),
    sentiment: z.string().meta({ description: 'The top label, in lower case', examples: ['positive'] }),
    confidence: z.number().meta({ description: 'The score of that label', examples: [0.9987] }),
    status: z.literal('success'),
    requests_remaining: z.int().min(0).meta({ description: 'Slots that remain in the tightest window' }),
    truncated,
  })
  .meta({ id: 'Prediction' });

export const analysisSchema = z
  .object({
    sentiment: z.array(labelScoreSchema).meta({ description: 'The labels with their scores, best first' }),
    truncated,
  })
  .meta({ id: 'Analysis' });

export const commentSchema = z
  .object({ sentiment: z.string().meta({ description: 'The top label', examples: ['POSITIVE'] }), truncated })
  .meta({ id: 'CommentAnalysis' });

export type Prediction = z.infer<typeof predictionSchema>;
export type Analysis = z.infer<typeof analysisSchema>;
export type CommentAnalysis = z.infer<typeof commentSchema>;
