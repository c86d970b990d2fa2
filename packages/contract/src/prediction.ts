import { z } from 'zod';

/** What the operator configures and a body has to keep to. */
export interface Bounds {
  /** Longest text, in Unicode characters (code points). */
  maxTextChars: number;
  /** Deadline of an interactive request, in seconds; a request may ask for less. */
  requestTimeoutSeconds: number;
  /** Most texts of a batch. */
  maxBatchTexts: number;
  /** Ids of the configured models, the default first. */
  models: [string, ...string[]];
}

/** Shortest deadline a request may ask for, in seconds. */
const MIN_TIMEOUT_SECONDS = 0.1;

/** Which model a request is for. */
export function modelId({ models }: Bounds) {
  return z
    .enum(models, 'No such model is configured')
    .optional()
    .meta({ description: 'Id of a configured model; without it, the default' });
}

function characters(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}

/** JSON Schema counts `maxLength` in Unicode characters; zod's own `max` counts UTF-16 units. */
export function textSchema(maxTextChars: number) {
  return z
    .string()
    .superRefine((text, context) => {
      const message =
        text.trim() === ''
          ? 'The text is empty or only white space'
          : text.length > maxTextChars && characters(text) > maxTextChars
            ? `The text is longer than ${maxTextChars} characters`
            : !text.isWellFormed()
              ? 'The text holds half a surrogate pair, which is not Unicode'
              : undefined;
      if (message) context.addIssue({ code: 'custom', message });
    })
    .meta({
      minLength: 1,
      maxLength: maxTextChars,
      pattern: '\\S',
      description: 'The text, not only white space',
      examples: ['This product is amazing!'],
    });
}

/** The body of `POST /predict` and `POST /analyze_comment`. */
export function textBody(bounds: Bounds) {
  const { maxTextChars, requestTimeoutSeconds } = bounds;
  return z.object({
    text: textSchema(maxTextChars),
    model: modelId(bounds),
    timeout_seconds: z
      .number()
      .min(Math.min(MIN_TIMEOUT_SECONDS, requestTimeoutSeconds))
      .max(requestTimeoutSeconds)
      .optional()
      .meta({ description: 'A shorter deadline than the usual one, in seconds' }),
  });
}

/** The body of `POST /analyze`. */
export function analyzeBody(bounds: Bounds) {
  return textBody(bounds).extend({
    top_k: z.int().min(1).default(1).meta({ description: 'How many labels to return, best first' }),
  });
}

export const labelScoreSchema = z
  .object({
    label: z.string().meta({ examples: ['POSITIVE'] }),
    score: z.number().min(0).max(1).meta({ description: "The model's output for the label, not rounded" }),
  })
  .meta({ id: 'LabelScore' });

const truncated = z
  .literal(true)
  .optional()
  .meta({ description: 'There when the text was cut to the tokens that the model takes' });

export const predictionSchema = z
  .object({
    text: z.string(),
    sentiment: z.string().meta({ description: 'The top label, in lower case', examples: ['positive'] }),
    confidence: z
      .number()
      .min(0)
      .max(1)
      .meta({ description: 'Its score', examples: [0.9987] }),
    status: z.literal('success'),
    requests_remaining: z.int().min(0).meta({ description: 'Left in the tightest window' }),
    truncated,
  })
  .meta({ id: 'Prediction' });

export const analysisSchema = z
  .object({
    sentiment: z.array(labelScoreSchema).meta({ description: "The pipeline's own result" }),
    truncated,
  })
  .meta({ id: 'Analysis' });

export const commentSchema = z
  .object({ sentiment: z.string().meta({ description: 'The top label', examples: ['POSITIVE'] }), truncated })
  .meta({ id: 'CommentAnalysis' });

export type Prediction = z.infer<typeof predictionSchema>;
export type Analysis = z.infer<typeof analysisSchema>;
export type CommentAnalysis = z.infer<typeof commentSchema>;
export type LabelScore = z.infer<typeof labelScoreSchema>;
