import { z } from 'zod';

/** Version of what stands in queues and streams; a process reads its own and the one before. */
export const PAYLOAD_VERSION = 1;

/** An interactive job in a model's queue: one text, for which someone waits. */
export const jobSchema = z.object({
  v: z.literal(PAYLOAD_VERSION),
  /** Also the BullMQ job's id and the reply's. */
  id: z.string().min(1),
  text: z.string(),
  /** How many labels to return. */
  topK: z.int().min(1),
  /** On Redis's clock, in milliseconds since the epoch: later than this nobody waits. */
  deadlineMs: z.number(),
  /** The gateway whose stream takes the reply. */
  gatewayId: z.string().min(1),
});
export type Job = z.infer<typeof jobSchema>;

/** A job in a model's bulk queue: one chunk of a batch, whose texts stand in Redis. */
export const chunkJobSchema = z.object({
  v: z.literal(PAYLOAD_VERSION),
  jobId: z.string().min(1),
  chunk: z.int().min(0),
});
export type ChunkJob = z.infer<typeof chunkJobSchema>;

/** What became of a text. */
export const outcomeSchema = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('answer'),
    /** Best first, as the pipeline gives them. */
    labels: z.array(z.object({ label: z.string(), score: z.number() })).min(1),
    /** Whether the text was cut to the tokens that the model takes. */
    truncated: z.boolean(),
  }),
  /** It hung its model process in both of its runs. */
  z.object({ kind: z.literal('timed_out') }),
  /** Its second run crashed its model process, or the model refused it. */
  z.object({ kind: z.literal('failed') }),
]);
export type Outcome = z.infer<typeof outcomeSchema>;

/** What a worker adds to a gateway's stream. */
export const replySchema = z.object({
  v: z.literal(PAYLOAD_VERSION),
  id: z.string().min(1),
  outcome: outcomeSchema,
});
export type Reply = z.infer<typeof replySchema>;

/** Name of the one field of an entry in a stream of replies. */
export const REPLY_FIELD = 'reply';
/** A gateway's stream keeps about so many replies; the gateway reads them at once. */
export const REPLIES_KEPT = 10_000;
