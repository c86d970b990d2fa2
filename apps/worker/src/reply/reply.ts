import { JOB_VERSION, type Job, names, REPLIES_KEPT, REPLY_FIELD, type Reply } from '@sluice/shared';
import type { Redis } from 'ioredis';

/** Replies to one gateway that go together. */
interface Entry {
  replies: Reply[];
  sent: Promise<void>;
}

/**
 * Adds replies to the streams of the gateways that asked. Those of a micro-batch are settled in one go, and go to a
 * gateway in one entry.
 */
export class Replies {
  #redis: Redis;
  #open = new Map<string, Entry>();

  constructor(redis: Redis) {
    this.#redis = redis;
  }

  /**
   * Sends a reply; resolves when Redis has it. A stream that is gone means a gateway that is gone: nothing is made
   * for it.
   * @param version of the job, which the gateway understands
   */
  send(gatewayId: string, version: Job['v'], reply: Reply): Promise<void> {
    if (version !== JOB_VERSION) return this.#add(gatewayId, { v: version, ...reply });
    const open = this.#open.get(gatewayId);
    if (open) {
      open.replies.push(reply);
      return open.sent;
    }
    const replies = [reply];
    const sent = new Promise<void>((resolve) => process.nextTick(resolve)).then(() => {
      this.#open.delete(gatewayId);
      return this.#add(gatewayId, { v: JOB_VERSION, replies });
    });
    this.#open.set(gatewayId, { replies, sent });
    return sent;
  }

  async #add(gatewayId: string, entry: object): Promise<void> {
    await this.#redis.xadd(
      names.replies(gatewayId),
      'NOMKSTREAM',
      'MAXLEN',
      '~',
      REPLIES_KEPT,
      '*',
      REPLY_FIELD,
      JSON.stringify(entry),
    );
  }
}
