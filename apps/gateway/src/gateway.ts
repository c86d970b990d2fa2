import { randomUUID } from 'node:crypto';
import type { Bounds } from '@sluice/contract';
import {
  type App,
  connectRedis,
  Keyring,
  Ledger,
  type Log,
  modelSpecs,
  RedisClock,
  requireServer,
  runApp,
  type Settings,
  Usage,
  version,
} from '@sluice/shared';
import { startAdminServer } from './admin/server.js';
import { RedisMemory } from './admission/redisMemory.js';
import { Storage } from './admission/storage.js';
import { cohereFamily } from './api/cohere/index.js';
import { huggingFaceFamily } from './api/huggingface/index.js';
import { healthRoutes } from './api/native/health.js';
import { nativeFamily } from './api/native/index.js';
import { jobBody } from './api/native/jobBody.js';
import { anyFamilyProblemJson } from './api/native/problemJson.js';
import { openAiFamily } from './api/openai/index.js';
import { teiFamily } from './api/tei/index.js';
import { createAuthenticate } from './auth/authenticate.js';
import { FailedAuthentications } from './auth/failedAuthentications.js';
import { ReplyReader } from './dispatch/replyReader.js';
import { Files } from './files/files.js';
import { createApp } from './http/app.js';
import { openPublicPort } from './http/publicPort.js';
import { readTls } from './http/tls.js';
import { Changes } from './jobs/changes.js';
import { Janitor } from './jobs/janitor.js';
import { createSubmitJob } from './jobs/submission.js';
import { RateLimit } from './limits/rateLimit.js';
import { ReadLimit } from './limits/readLimit.js';
import { StreamLimit } from './limits/streamLimit.js';
import { createMetrics } from './metrics.js';
import { createAnswerInputs } from './models/answerInputs.js';
import { Catalog } from './models/catalog.js';
import { createOverload } from './models/overload.js';
import { Tokenizers } from './models/tokenizers.js';
import { UsageCounter } from './usage/usageCounter.js';
import { createWebhookFor } from './webhooks/webhookFor.js';
import { Webhooks } from './webhooks/webhooks.js';

/** The start waits this long for Redis's time and the reader of replies, in milliseconds; then the port opens without them. */
const REDIS_WAIT_MS = 1_000;

/** Starts a gateway. @throws StartError */
async function startGateway(settings: Settings, log: Log, signal: AbortSignal): Promise<App> {
  const gatewayId = randomUUID();
  let isDraining = false;
  const draining = () => isDraining;

  // Redis
  const tls = readTls(settings);
  const redis = connectRedis(settings.REDIS_URL, 'request', log);
  await requireServer(redis, log);
  const clock = new RedisClock(redis, log);
  const storage = new Storage(redis, clock, log);

  // Models
  const specs = modelSpecs(settings);
  const bulkTimeoutMs = settings.BULK_REQUEST_TIMEOUT_SECONDS * 1000;
  const timeoutMs = Math.max(...specs.map((spec) => spec.timeoutMs));
  const replies = new ReplyReader(connectRedis(settings.REDIS_URL, 'blocking', log), gatewayId, log);
  const catalog = new Catalog({
    specs,
    redis,
    replies,
    clock,
    storage,
    gatewayId,
    log,
  });

  const bounds: Bounds = {
    maxTextChars: settings.MAX_TEXT_CHARS,
    requestTimeoutSeconds: timeoutMs / 1000,
    bulkTimeoutSeconds: settings.BULK_REQUEST_TIMEOUT_SECONDS,
    maxBatchTexts: settings.MAX_BATCH_TEXTS,
    models: catalog.names,
  };

  // Jobs
  const ledger = new Ledger(redis, {
    resultTtlMs: settings.RESULT_TTL_SECONDS * 1000,
    jobTimeoutMs: settings.BATCH_TIMEOUT_SECONDS * 1000,
  });
  const subscriber = connectRedis(settings.REDIS_URL, 'subscriber', log);
  const changes = new Changes({ redis: subscriber, ledger, body: jobBody, log });
  const metrics = createMetrics({
    clock,
    catalog,
    ledger,
    storage,
    byKey: settings.METRICS_BY_KEY,
    log,
  });
  const memory = new RedisMemory(redis);
  const files = new Files({
    redis,
    clock,
    memory,
    log,
    ttlMs: settings.FILE_TTL_SECONDS * 1000,
    maxBytesPerKey: settings.MAX_FILE_BYTES_PER_KEY,
  });
  const keyring = new Keyring(redis);
  const webhooks = new Webhooks({
    redis,
    blocking: connectRedis(settings.REDIS_URL, 'consumer', log),
    keyring,
    clock,
    pausesMs: settings.WEBHOOK_RETRY_SECONDS.map((seconds) => seconds * 1000),
    allowPrivate: settings.WEBHOOK_ALLOW_PRIVATE,
    onAttempt: metrics.delivery,
    version,
    log,
  });
  const janitor = new Janitor({ redis, clock, ledger, catalog, files, webhooks, gatewayId, log });
  const submitJob = createSubmitJob({
    ledger,
    catalog,
    clock,
    memory,
    maxItems: settings.MAX_BATCH_TEXTS,
    maxRows: settings.MAX_INPUTS,
    maxTextChars: settings.MAX_TEXT_CHARS,
    log,
  });

  // Keys, limits, usage
  const usage = new Usage(redis);
  const usageCounter = new UsageCounter(usage, clock, gatewayId, log);
  const failures = new FailedAuthentications(redis, settings.AUTH_FAILURES_PER_MINUTE);
  const authenticate = createAuthenticate(keyring, failures, usageCounter, clock);
  const defaultLimit = {
    limit: settings.RATE_LIMIT_REQUESTS,
    windowSeconds: settings.RATE_LIMIT_WINDOW_SECONDS,
  };
  const rateLimit = new RateLimit(redis, clock, [defaultLimit], log);
  const readLimit = new ReadLimit(redis, settings.READ_LIMIT_REQUESTS);
  const streamLimit = new StreamLimit(redis, settings.MAX_STREAMS, log);

  // HTTP
  const health = healthRoutes(catalog, clock, storage, draining);
  const shared = { settings, redis, clock, rateLimit, health, draining, version, log };
  const tokenizers = new Tokenizers(redis);
  const answerInputs = createAnswerInputs({
    maxInputs: settings.MAX_INPUTS,
    maxTextChars: settings.MAX_TEXT_CHARS,
    bulkTimeoutMs,
    tokenizers,
  });
  const inference = { bounds, catalog, answerInputs };
  const webhookFor = createWebhookFor(settings.WEBHOOK_ALLOW_PRIVATE);
  const submission = { ledger, memory, submitJob, webhookFor };
  const { app, giveUp } = createApp({
    families: [
      nativeFamily({ ...shared, ...inference, ...submission, changes, streamLimit }),
      // Before the next one, whose path with the id of a model is more general.
      teiFamily({ ...inference, tokenizers, maxInputs: settings.MAX_INPUTS, version }),
      huggingFaceFamily(inference),
      openAiFamily({ ...shared, ...inference, ...submission, files }),
      cohereFamily(inference),
    ],
    errorFormat: anyFamilyProblemJson,
    authenticate: async (request, access) => (access === 'admin' ? undefined : authenticate(request, access)),
    overload: createOverload(catalog),
    rateLimit,
    readLimit,
    usage: usageCounter,
    maxBodyBytes: settings.MAX_BODY_BYTES,
    draining,
    trustProxy: settings.TRUST_PROXY,
    corsOrigins: settings.CORS_ORIGINS,
    secure: tls !== undefined,
    traced: true,
    onDone: metrics.request,
    log,
  });
  // Before, requests would get 503, or wait.
  await Promise.all([clock.answered(REDIS_WAIT_MS), replies.listening(REDIS_WAIT_MS)]);
  signal.throwIfAborted();
  const publicPort = await openPublicPort(app, {
    settings,
    longestRequestMs: Math.max(bulkTimeoutMs, timeoutMs),
    errorFormat: anyFamilyProblemJson,
    tls,
    log,
  });
  const admin = await startAdminServer({
    ...shared,
    readLimit,
    failures,
    usage,
    usageCounter,
    metrics,
    ledger,
    catalog,
  });
  log.info(
    {
      port: publicPort.port,
      admin_port: admin.port,
      // The log removes a password.
      redis: settings.REDIS_URL,
      models: catalog.entries.map(({ spec }) => spec.id),
    },
    'Gateway listening',
  );

  async function drain(withinMs: number): Promise<void> {
    isDraining = true;
    const webhooksClosed = webhooks.close(withinMs);
    changes.close();
    await publicPort.drain(withinMs, giveUp);
    await admin.close();
    janitor.close();
    await webhooksClosed;
    storage.close();
    await usageCounter.close();
    rateLimit.close();
    await catalog.close();
    clock.close();
    await replies.close();
    redis.disconnect();
  }

  let drained: Promise<void> | undefined;
  return {
    facts: { port: publicPort.port, adminPort: admin.port },
    close: (withinMs) => {
      drained ??= drain(withinMs);
      return drained;
    },
  };
}

/** Runs a gateway as this process. */
export const run = () => runApp('gateway', startGateway);
