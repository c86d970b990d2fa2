import { keepSubscribed, type Log, names, withdrawalSchema } from '@sluice/shared';
import type { Redis } from 'ioredis';

const nameOf = (gatewayId: string, itemId: string) => `${gatewayId} ${itemId}`;

/**
 * Learns which interactive items nobody waits for any more: their gateway removes them from the queue, and publishes
 * their ids for the workers that hold them already. A missed id only costs a run.
 */
export class Withdrawals {
  #redis: Redis;
  #log: Log;
  /** Held items, and whether they were withdrawn. */
  #held = new Map<string, boolean>();

  /** @param redis a connection for subscriptions, which its owner closes */
  constructor(redis: Redis, log: Log) {
    this.#redis = redis;
    this.#log = log;
    redis.on('message', (_channel: string, text: string) => {
      const withdrawal = withdrawalSchema.safeParse(text);
      if (!withdrawal.success) {
        log.warn('Dropped a malformed withdrawal');
        return;
      }
      const { gatewayId, ids } = withdrawal.data;
      for (const name of ids.map((id) => nameOf(gatewayId, id)))
        if (this.#held.has(name)) this.#held.set(name, true);
    });
  }

  /** Listens to the withdrawals of a model. */
  subscribe(modelId: string): void {
    void keepSubscribed(this.#redis, names.withdrawn(modelId), this.#log);
  }

  /** Watches an item until {@link release}. */
  hold(gatewayId: string, itemId: string): void {
    this.#held.set(nameOf(gatewayId, itemId), false);
  }

  release(gatewayId: string, itemId: string): void {
    this.#held.delete(nameOf(gatewayId, itemId));
  }

  isWithdrawn(gatewayId: string, itemId: string): boolean {
    return this.#held.get(nameOf(gatewayId, itemId)) ?? false;
  }
}
