/** Every key and queue name of Sluice in Redis. The braces put all keys into one hash slot of a Redis Cluster. */
export const PREFIX = '{sluice}';

/** Lanes of a model's work: a caller waits for `interactive` items; `bulk` items belong to jobs. */
export type Lane = 'interactive' | 'bulk';

/** BullMQ queue of a model's lane. Gateways and workers whose configurations of a model differ use different queues. */
export const queueName = ({ id, hash }: { id: string; hash: string }, lane: Lane): string =>
  `${id}-${hash}-${lane}`;

export const names = {
  /** HASH: the record of an API key. */
  key: (keyId: string) => `${PREFIX}:key:${keyId}`,
  /** ZSET: every key id by its time of creation. */
  keys: `${PREFIX}:keys`,
  /** HASH: usage of a key by day. */
  usage: (keyId: string) => `${PREFIX}:usage:${keyId}`,
  /** STRING: number of the last usage report that a gateway has sent. */
  usageReport: (gatewayId: string) => `${PREFIX}:usage-report:${gatewayId}`,
  /** Prefix of the sliding windows: `<prefix>:<key id>:<window in seconds>` is a LIST. */
  limits: `${PREFIX}:limit`,
  /** Prefix of the counters of failed authentications by address. */
  failedAuthentications: `${PREFIX}:failed-auth`,
  /** STREAM: replies to one start of one gateway. */
  replies: (gatewayId: string) => `${PREFIX}:replies:${gatewayId}`,
  /** HASH: the record of a job. */
  job: (jobId: string) => `${PREFIX}:job:${jobId}`,
  /** HASH: the items of a job by chunk. */
  items: (jobId: string) => `${PREFIX}:job:${jobId}:items`,
  /** HASH: the results of a job by chunk. */
  results: (jobId: string) => `${PREFIX}:job:${jobId}:results`,
  /** STRING: the index of the first item of each chunk of a job, four bytes each. */
  starts: (jobId: string) => `${PREFIX}:job:${jobId}:starts`,
  /** HASH: the items of an upload by chunk; it becomes {@link names.items} when the job is accepted. */
  stage: (jobId: string) => `${PREFIX}:stage:${jobId}`,
  /** STRING: the same for {@link names.starts}. */
  stageStarts: (jobId: string) => `${PREFIX}:stage:${jobId}:starts`,
  /** STRING: how many bytes the results of the unfinished jobs will take. */
  resultBytes: `${PREFIX}:result-bytes`,
  /** HASH: the job that a caller's idempotency key names, and the fingerprint of its body. */
  idempotency: (keyId: string, hash: string) => `${PREFIX}:idempotency:${keyId}:${hash}`,
  /** ZSET: a caller's jobs by the time they were accepted. */
  jobs: (keyId: string) => `${PREFIX}:jobs:${keyId}`,
  /** LIST: a caller's jobs for a model that have chunks in the backlog. */
  backlog: (modelId: string, keyId: string) => `${PREFIX}:backlog:${modelId}:${keyId}`,
  /** ZSET: a caller's chunks for a model that are in flight, by the time they were handed out. */
  inFlight: (modelId: string, keyId: string) => `${PREFIX}:in-flight:${modelId}:${keyId}`,
  /** SET: callers with chunks in flight, as `<model> <key id>`. */
  callers: `${PREFIX}:callers`,
  /** ZSET: unfinished jobs by the time they fail. */
  unfinished: `${PREFIX}:unfinished`,
  /** ZSET: finished jobs, as `<key id> <job>`, by the time they expire. */
  finished: `${PREFIX}:finished`,
  /** HASH: numbers of jobs and of waiting rows, for the metrics; see `lib.lua`. */
  counts: `${PREFIX}:counts`,
  /** Channel: ids of jobs whose record changed. */
  changes: `${PREFIX}:changes`,
  /** HASH: the record of a file. */
  file: (fileId: string) => `${PREFIX}:file:${fileId}`,
  /** HASH: the pieces of a file by their number. */
  filePieces: (fileId: string) => `${PREFIX}:file:${fileId}:pieces`,
  /** HASH: the pieces of an upload; it becomes {@link names.filePieces} when the file is stored. */
  fileStage: (fileId: string) => `${PREFIX}:file-stage:${fileId}`,
  /** ZSET: uploads of files of a key under way, by the time they expire unless they are renewed. */
  uploads: (keyId: string) => `${PREFIX}:uploads:${keyId}`,
  /** ZSET: a key's files by the time they were stored. */
  files: (keyId: string) => `${PREFIX}:files:${keyId}`,
  /** ZSET: files, as `<key id> <file>`, by the time they expire. */
  expiringFiles: `${PREFIX}:expiring-files`,
  /** LIST: ends of jobs with a webhook, as JSON, until they are in the queue of deliveries. */
  outbox: `${PREFIX}:outbox`,
  /** BullMQ queue of the deliveries of webhooks. */
  deliveries: 'webhooks',
  /** ZSET: deliveries of a key under way, by the time they expire unless they are renewed. */
  webhookDeliveries: (keyId: string) => `${PREFIX}:webhook-deliveries:${keyId}`,
  /** STRING: held by the gateway that sweeps now. */
  sweep: `${PREFIX}:sweep`,
  /** STRING: written only to see whether Redis accepts writes. */
  probe: `${PREFIX}:probe`,
  /** LIST: changes of keys that a command line made, as JSON, until a gateway has logged them. */
  keyChanges: `${PREFIX}:key-changes`,
  /** ZSET: open streams of events of a key, by the time they expire unless they are renewed. */
  streams: (keyId: string) => `${PREFIX}:streams:${keyId}`,
  /** Prefix of the counters of reads by key. */
  reads: `${PREFIX}:reads`,
  /** Channel: ids of interactive items of a model that nobody waits for any more. */
  withdrawn: (modelId: string) => `${PREFIX}:withdrawn:${modelId}`,
  /** HASH: unanswered rows of a model's lane by gateway. */
  unanswered: (modelId: string, lane: Lane) => `${PREFIX}:unanswered:${modelId}:${lane}`,
  /** STRING: since when no gateway has announced a configuration of a model that a job needs, in ms of Redis's time. */
  missingSince: (modelId: string, hash: string) => `${PREFIX}:missing:${modelId}:${hash}`,
  /** STRING: the tokenizer.json of a model, gzipped. */
  tokenizer: ({ id, hash }: { id: string; hash: string }) => `${PREFIX}:tokenizer:${id}:${hash}`,
  /** STRING: the heartbeat of a live worker. */
  worker: (workerId: string) => `${PREFIX}:worker:${workerId}`,
  /** ZSET: worker ids by the time their heartbeat expires. */
  workers: `${PREFIX}:workers`,
} as const;
