/** Every key and queue name of Sluice in Redis. The braces put them into one slot of a Redis Cluster. */
export const PREFIX = '{sluice}';

/** Lanes of a model's queue: someone waits for `interactive` work. */
export type Lane = 'interactive';

/** BullMQ queue of a model's lane. */
export const queueName = (model: string, lane: Lane): string => `${model}-${lane}`;

export const names = {
  /** HASH: the record of an API key. */
  key: (keyId: string) => `${PREFIX}:key:${keyId}`,
  /** ZSET: every key id by the time it was made. */
  keys: `${PREFIX}:keys`,
  /** Prefix of the sliding windows: `<prefix>:<key id>:<window in seconds>` is a LIST. */
  limits: `${PREFIX}:limit`,
  /** Prefix of the counters of failed authentications by address. */
  guesses: `${PREFIX}:guesses`,
  /** STREAM: replies to one start of one gateway. */
  replies: (gatewayId: string) => `${PREFIX}:replies:${gatewayId}`,
  /** STRING: what a live worker announces. */
  worker: (workerId: string) => `${PREFIX}:worker:${workerId}`,
  /** ZSET: worker ids by the time their announcement expires. */
  workers: `${PREFIX}:workers`,
} as const;
