/** Every key and queue name of Sluice in Redis. The braces put them into one slot of a Redis Cluster. */
export const PREFIX = '{sluice}';

/** Lanes of a model's queue: someone waits for `interactive` work; `bulk` is the chunks of batches. */
export type Lane = 'interactive' | 'bulk';

/** BullMQ queue of a model's lane. */
export const queueName = (model: string, lane: Lane): string => `${model}-${lane}`;

export const names = {
  /** HASH: the record of an API key. */
  key: (keyId: string) => `${PREFIX}:key:${keyId}`,
  /** ZSET: every key id by the time it was made. */
  keys: `${PREFIX}:keys`,
  /** HASH: what was done with a key, by day. */
  usage: (keyId: string) => `${PREFIX}:usage:${keyId}`,
  /** STRING: number of the last count of usage that a gateway has brought. */
  usageMark: (gatewayId: string) => `${PREFIX}:usage-mark:${gatewayId}`,
  /** Prefix of the sliding windows: `<prefix>:<key id>:<window in seconds>` is a LIST. */
  limits: `${PREFIX}:limit`,
  /** Prefix of the counters of failed authentications by address. */
  guesses: `${PREFIX}:guesses`,
  /** STREAM: replies to one start of one gateway. */
  replies: (gatewayId: string) => `${PREFIX}:replies:${gatewayId}`,
  /** HASH: the record of a batch. */
  job: (jobId: string) => `${PREFIX}:job:${jobId}`,
  /** HASH: the texts of a batch, by chunk. */
  texts: (jobId: string) => `${PREFIX}:job:${jobId}:texts`,
  /** HASH: the results of a batch, by chunk. */
  results: (jobId: string) => `${PREFIX}:job:${jobId}:results`,
  /** HASH: the texts of an upload, by chunk; it becomes {@link names.texts}. */
  stage: (jobId: string) => `${PREFIX}:stage:${jobId}`,
  /** HASH: the batch that an idempotency key of a caller stands for, and the fingerprint of its body. */
  idempotency: (keyId: string, hash: string) => `${PREFIX}:idempotency:${keyId}:${hash}`,
  /** ZSET: a caller's batches by the time they were accepted. */
  jobs: (keyId: string) => `${PREFIX}:jobs:${keyId}`,
  /** LIST: a caller's batches for a model with chunks that are not marked out yet. */
  feed: (model: string, keyId: string) => `${PREFIX}:feed:${model}:${keyId}`,
  /** ZSET: a caller's chunks for a model that are marked out, by the time they were. */
  out: (model: string, keyId: string) => `${PREFIX}:out:${model}:${keyId}`,
  /** SET: who has chunks out, as `<model> <key id>`. */
  callers: `${PREFIX}:callers`,
  /** ZSET: unfinished batches by the time they fail. */
  unfinished: `${PREFIX}:unfinished`,
  /** ZSET: finished batches, as `<key id> <batch>`, by the time they go. */
  finished: `${PREFIX}:finished`,
  /** Channel: ids of batches whose record changed. */
  changes: `${PREFIX}:changes`,
  /** STRING: which gateway sweeps now. */
  sweeper: `${PREFIX}:sweeper`,
  /** HASH: how many texts wait at each gateway for a model. */
  waiting: (model: string) => `${PREFIX}:waiting:${model}`,
  /** STRING: what a live worker announces. */
  worker: (workerId: string) => `${PREFIX}:worker:${workerId}`,
  /** ZSET: worker ids by the time their announcement expires. */
  workers: `${PREFIX}:workers`,
} as const;
