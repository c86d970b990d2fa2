import {
  type Log,
  MESSAGE_VERSION,
  names,
  pack,
  REPLIES_KEPT,
  REPLY_FIELD,
  type Reply,
} from '@sluice/shared';
import type { Redis } from 'ioredis';

/** An entry that takes further replies until it is sent. */
interface OpenEntry {
  replies: Reply[];
  sent: Promise<void>;
}

/**
 * Adds replies to the streams of the gateways that sent the items. The items of a micro-batch are settled in the same
 * turn of the event loop, so their replies to one gateway share an entry.
 */
export class Replies {
  #redis: Redis;
  #log: Log;
  #open = new Map<string, OpenEntry>();

  /** @param redis the connection that also completes the messages */
  constructor(redis: Redis, log: Log) {
    this.#redis = redis;
    this.#log = log;
  }

  /**
   * Sends a reply; resolves when the connection has the command, not when Redis has confirmed it. A later command of the same
   * connection arrives later, in the same write if it is sent in the same turn of the event loop. If the command fails, the
   * reply is lost, and the failure is logged. Nothing happens if the stream of the gateway has expired.
   */
  send(gatewayId: string, reply: Reply): Promise<void> {
    const open = this.#open.get(gatewayId);
    if (open) {
      open.replies.push(reply);
      return open.sent;
    }
    const replies = [reply];
    const sent = new Promise<void>((resolve) => process.nextTick(resolve)).then(() => {
      this.#open.delete(gatewayId);
      this.#add(gatewayId, replies).catch((err: unknown) =>
        this.#log.warn({ err, replies: replies.length }, 'Could not send replies'),
      );
    });
    this.#open.set(gatewayId, { replies, sent });
    return sent;
  }

  async #add(gatewayId: string, replies: Reply[]): Promise<void> {
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
  }
}
