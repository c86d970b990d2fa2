import { json, traceContextSchema } from '@sluice/shared';
import * as z from 'zod';
import { batchIdOf } from '../jobs/batchIds.js';
import { NOT_IN_TIME } from '../jobs/reasons.js';

/** The end of a job, as the scripts of the ledger append it to the outbox. */
export const outboxEntrySchema = json(
  z.object({
    job: z.string(),
    key: z.string(),
    status: z.enum(['completed', 'failed', 'canceled']),
    /** Why it failed, or who canceled it. */
    reason: z.string(),
    at: z.number(),
    webhook: json(z.object({ url: z.string(), kind: z.enum(['job', 'batch']) })),
    /** The trace of the request that created the job. */
    trace: json(traceContextSchema).optional(),
  }),
);
export type OutboxEntry = z.infer<typeof outboxEntrySchema>;

/** The id of an event, the same at each attempt. A job ends once, so it has one event. */
export const eventIdOf = ({ job }: Pick<OutboxEntry, 'job'>): string => `evt_${job.replaceAll('-', '')}`;

/** The event that a webhook carries: of a job, or in OpenAI's words of a batch. */
export function eventOf(entry: OutboxEntry) {
  const { job, status, reason, at, webhook } = entry;
  const [type, id] =
    webhook.kind === 'job'
      ? [`job.${status}`, job]
      : [
          `batch.${status === 'canceled' ? 'cancelled' : reason === NOT_IN_TIME ? 'expired' : status}`,
          batchIdOf(job),
        ];
  return { id: eventIdOf(entry), object: 'event', type, created_at: Math.floor(at / 1000), data: { id } };
}
