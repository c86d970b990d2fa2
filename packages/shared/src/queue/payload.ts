import { z } from 'zod';

/**
 * Version of interactive jobs and their replies; a process reads its own and the one before. A worker replies in the
 * version that it was asked in, so workers are upgraded before gateways.
 */
export const JOB_VERSION = 2;
/** Version of chunk jobs. */
export const CHUNK_VERSION = 1;

const textSchema = z.object({
  /** Also the reply's. */
  id: z.string().min(1),
  text: z.string(),
  /** How many labels to return. */
  topK: z.int().min(1),
  /** On Redis's clock, in milliseconds since the epoch: later than this nobody waits. */
  deadlineMs: z.number(),
});
/** A text for which someone waits. */
export type JobText = z.infer<typeof textSchema>;

/** An interactive job in a model's queue: texts that came to one gateway at about the same time. */
export const jobSchema = z.union([
  z.object({
    v: z.literal(JOB_VERSION),
    /** The gateway whose stream takes the replies. */
    gatewayId: z.string().min(1),
    texts: z.array(textSchema).min(1),
  }),
  // Version 1: one text a job.
  textSchema
    .extend({ v: z.literal(1), gatewayId: z.string().min(1) })
    .transform(({ v, gatewayId, ...text }) => ({ v, gatewayId, texts: [text] })),
]);
export type Job = z.infer<typeof jobSchema>;

/** A job in a model's bulk queue: one chunk of a batch, whose texts stand in Redis. */
export const chunkJobSchema = z.object({
  v: z.literal(CHUNK_VERSION),
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

const replySchema = z.object({ id: z.string().min(1), outcome: outcomeSchema });
/** What became of the text with this id. */
export type Reply = z.infer<typeof replySchema>;

/** What a worker adds to a gateway's stream: replies that came at the same time. */
export const repliesSchema = z.union([
  z.object({ v: z.literal(JOB_VERSION), replies: z.array(replySchema).min(1) }),
  // Version 1: one reply an entry.
  replySchema.extend({ v: z.literal(1) }).transform(({ v, ...reply }) => ({ v, replies: [reply] })),
]);

/** Name of the one field of an entry in a stream of replies. */
export const REPLY_FIELD = 'reply';
/** A gateway's stream keeps about so many entries; the gateway reads them at once. */
export const REPLIES_KEPT = 10_000;
