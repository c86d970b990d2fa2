import { names, type Outcome, PAYLOAD_VERSION, REPLIES_KEPT, REPLY_FIELD, type Reply } from '@sluice/shared';
import type { Redis } from 'ioredis';

/**
 * Adds a reply to the stream of the gateway that asked. A stream that is gone means a gateway that is gone: nothing
 * is made for it.
 */
export async function sendReply(
  redis: Redis,
  gatewayId: string,
  id: string,
  outcome: Outcome,
): Promise<void> {
  const reply: Reply = { v: PAYLOAD_VERSION, id, outcome };
  await redis.xadd(
    names.replies(gatewayId),
    'NOMKSTREAM',
    'MAXLEN',
    '~',
    REPLIES_KEPT,
    '*',
    REPLY_FIELD,
    JSON.stringify(reply),
  );
}
