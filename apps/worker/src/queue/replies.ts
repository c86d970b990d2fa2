import { MESSAGE_VERSION, names, pack, REPLIES_KEPT, REPLY_FIELD, type Reply } from '@sluice/shared';
import type { Redis } from 'ioredis';

/** An entry that takes further replies until it is sent. */
interface OpenEntry {
  replies: Reply[];
  sent: Promise<void>;
}

/**
 * Adds replies to the streams of the gateways that sent the items. The items of a micro-batch are settled in the same
 * tick, so their replies to one gateway share an entry.
 */
export class Replies {
  #redis: Redis;
  #open = new Map<string, OpenEntry>();

  constructor(redis: Redis) {
    this.#redis = redis;
  }

  /** Sends a reply; resolves when Redis has it. It does nothing if the stream of the gateway has expired. */
  send(gatewayId: string, reply: Reply): Promise<void> {
    const open = this.#open.get(gatewayId);
    if (open) {
      open.replies.push(reply);
      return open.sent;
    }
    const replies = [reply];
    const sent = new Promise<void>((resolve) => process.nextTick(resolve)).then(async () => {
      this.#open.delete(gatewayId);
      await this.#redis.xadd(
        names.replies(gatewayId),
        'NOMKSTREAM',
        'MAXLEN',
        '~',
        REPLIES_KEPT,
        '*',
        REPLY_FIELD,
        pack({ v: MESSAGE_VERSION, replies }),
      );
    });
    this.#open.set(gatewayId, { replies, sent });
    return sent;
  }
}
