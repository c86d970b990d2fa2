import * as z from 'zod';
import { packed } from '../binary.js';
import { json } from '../json.js';
import { traceContextSchema } from '../telemetry/tracing.js';

/** Version of the messages and replies. A process refuses messages of another version. */
export const MESSAGE_VERSION = 1;

const version = z.literal(MESSAGE_VERSION, 'of another version');

/** The error for a message that does not match its schema: names the field, but no value. */
export function malformed(error: z.ZodError): Error {
  const [issue] = error.issues;
  return new Error(`Malformed message: "${issue?.path.join('.')}": ${issue?.message}`);
}

/** Id of the n-th item of a gateway. It shows the request, and is unique even if clients repeat their request ids. */
export const itemIdOf = (requestId: string, n: number): string => `${requestId}#${n}`;

/** The request of an interactive item, for the log; the place in a job of any other item. */
export const requestIdOf = (itemId: string): string => itemId.replace(/#\d+$/, '');

const itemSchema = z.object({
  /** The reply carries the same id. See {@link itemIdOf}. */
  id: z.string().min(1),
  /** The model's task parses it. */
  input: z.unknown(),
  /** The model's task parses them. */
  parameters: z.unknown(),
  /** On Redis's clock, in milliseconds since the epoch. */
  submittedAtMs: z.number().optional(),
  /** The trace that the item is part of. */
  trace: traceContextSchema.optional(),
  /** On Redis's clock, in milliseconds since the epoch. Nobody waits for the reply after this. */
  deadlineMs: z.number(),
});
/** An input that a caller waits for. */
export type Item = z.infer<typeof itemSchema>;

/**
 * A message with items that callers wait for; they reached one gateway at about the same time. The items of a request with
 * many rows are in the bulk queue.
 */
export const interactiveMessageSchema = z.object({
  v: version,
  /** The gateway whose stream receives the replies. */
  gatewayId: z.string().min(1),
  /** Unanswered rows of the model's lane at all gateways; a worker computes its share from it. */
  unansweredRows: z.int().min(0).default(0),
  items: z.array(itemSchema).min(1),
});
export type InteractiveMessage = z.infer<typeof interactiveMessageSchema>;

/** A message in a model's bulk queue: names one chunk of a job, whose items are stored in Redis. */
export const chunkMessageSchema = z.object({
  v: version,
  jobId: z.string().min(1),
  chunk: z.int().min(0),
});
export type ChunkMessage = z.infer<typeof chunkMessageSchema>;

/** The result of an item. */
export const outcomeSchema = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('answer'),
    /** The model's task parses it. */
    output: z.unknown(),
    /** Tokens that the model read, of all rows. */
    tokens: z.int().min(0),
    /** Whether the input was truncated to the model's maximum number of tokens. */
    truncated: z.boolean(),
  }),
  /** A run of the item alone exceeded its budget. */
  z.object({ kind: z.literal('timed_out') }),
  /** A run of the item alone crashed its model process, or the model threw an error. */
  z.object({ kind: z.literal('failed') }),
  /** The input is longer than the model's maximum, and must not be truncated. */
  z.object({ kind: z.literal('too_long'), maxTokens: z.int().min(1) }),
  /** The model cannot apply a parameter. */
  z.object({ kind: z.literal('wrong_parameter'), name: z.string(), detail: z.string() }),
]);
export type Outcome = z.infer<typeof outcomeSchema>;

const replySchema = z.object({ id: z.string().min(1), outcome: outcomeSchema });
/** The outcome of the item with this id. */
export type Reply = z.infer<typeof replySchema>;

/** An entry in a gateway's stream, packed: replies that a worker had at the same time. */
export const repliesSchema = packed(z.object({ v: version, replies: z.array(replySchema).min(1) }));

/** What a gateway publishes about items that nobody waits for any more. */
export const withdrawalSchema = json(z.object({ gatewayId: z.string(), ids: z.array(z.string()) }));

/** Name of the one field of an entry in a stream of replies. */
export const REPLY_FIELD = 'reply';
/** A gateway's stream keeps about this many entries; the gateway reads them at once. */
export const REPLIES_KEPT = 10_000;
