import type { Redis } from 'ioredis';
import * as z from 'zod';
import { json } from '../json.js';
import { names } from '../redis/names.js';

/** The log line of a change of a key. */
export const keyEventSchema = z.enum([
  'Key created',
  'Key imported',
  'Key changed',
  'Key revoked',
  'Key rotated',
  'Signing secret created',
]);
export type KeyEvent = z.infer<typeof keyEventSchema>;

/** A key change made with `sluice keys`, as stored until a gateway has logged it. */
export const keyChangeSchema = json(z.object({ what: keyEventSchema, keyId: z.string(), by: z.string() }));

/** Changes kept while no gateway runs. */
const KEPT = 10_000;

/**
 * Leaves a change of a key for the log of a gateway, since the output of a command line is not in the operator's log.
 * @param by who made the change
 */
export async function recordKeyChange(
  redis: Redis,
  change: { what: KeyEvent; keyId: string; by: string },
): Promise<void> {
  await redis
    .multi()
    .rpush(names.keyChanges, JSON.stringify(change))
    .ltrim(names.keyChanges, -KEPT, -1)
    .exec();
}
