import * as z from 'zod';
import { bytesOf, RESULT_BYTES, sharedParameters, type Task } from './task.js';

const aggregationSchema = z.enum(['none', 'simple', 'first', 'average', 'max']);
export type Aggregation = z.infer<typeof aggregationSchema>;

const parametersSchema = z.strictObject({
  aggregation_strategy: aggregationSchema.default('simple').meta({
    description: 'How tokens are joined to entities; `none` returns each token',
  }),
  ignore_labels: z.array(z.string()).default(['O']).meta({ description: 'Labels to leave out' }),
  ...sharedParameters,
});

/** An entity, or a token if `aggregation_strategy` is `none`. */
const entitySchema = z.object({
  entity_group: z.string().optional(),
  entity: z.string().optional(),
  score: z.number(),
  word: z.string(),
  /** In Unicode characters of the text as sent. */
  start: z.int().min(0),
  end: z.int().min(0),
});
export type Entity = z.infer<typeof entitySchema>;

/** `labels`: in the order of the model's outputs. */
const factsSchema = z.object({ labels: z.array(z.string()).min(1) });

/** An entity: its fields, three numbers and a word of usual length. */
const ENTITY_BYTES = 100;
/** Entities of a short text, in the usual case. */
const USUAL_ENTITIES = 8;
/** Bytes of text for each token, and tokens for each entity, in the usual case. */
const BYTES_PER_TOKEN = 3;
const TOKENS_PER_ENTITY = 8;

/** Entities in a text, such as names and places. */
export const tokenClassification = {
  name: 'token-classification',
  input: z.string('not a text'),
  parameters: parametersSchema,
  /** In the order of the text. */
  output: z.array(entitySchema),
  facts: factsSchema,
  /** All entities, also those with labels to leave out. */
  raw: z.array(entitySchema),
  texts: (text) => [{ path: [], text }],
  rows: (text) => [{ text }],
  mayTruncate: ({ truncate }) => truncate,
  runParameters: ({ truncation_direction, aggregation_strategy }) => ({
    truncation_direction,
    aggregation_strategy,
  }),
  combine: ([entities = []], _text, { ignore_labels: ignored }) =>
    entities.filter(({ entity, entity_group: group }) => !ignored.includes(entity ?? group ?? '')),
  wrongParameter: () => undefined,
  resultBytes(text = '', { aggregation_strategy: aggregation, ignore_labels: ignored }) {
    const tokens = bytesOf(text) / BYTES_PER_TOKEN;
    // Without a label to leave out, or without aggregation, there may be an entity for each token.
    const isEveryToken = aggregation === 'none' || ignored.length === 0;
    const entities = isEveryToken ? tokens : tokens / TOKENS_PER_ENTITY;
    return RESULT_BYTES + Math.max(USUAL_ENTITIES, entities) * ENTITY_BYTES;
  },
  difference(one, other) {
    if (one.length !== other.length) return Number.POSITIVE_INFINITY;
    const differences = one.map((entity, i) => {
      const match = other[i];
      const isSame =
        entity.start === match?.start &&
        entity.end === match.end &&
        entity.entity === match.entity &&
        entity.entity_group === match.entity_group;
      return isSame ? Math.abs(entity.score - match.score) : Number.POSITIVE_INFINITY;
    });
    return Math.max(0, ...differences);
  },
} as const satisfies Task<
  string,
  z.infer<typeof parametersSchema>,
  Entity[],
  z.infer<typeof factsSchema>,
  Entity[]
>;
