import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { type Bounds, batchBody, batchLine, routesFor } from '@sluice/contract';
import {
  type App,
  type ChunkJob,
  connectRedis,
  EXIT_CONFIG,
  type Job,
  Keyring,
  Ledger,
  type Log,
  listen,
  mostOut,
  PREFIX,
  queueName,
  RedisClock,
  requireServer,
  runApp,
  type Settings,
  StartError,
  sweep,
  Usage,
} from '@sluice/shared';
import { Queue } from 'bullmq';
import { startAdminServer } from './admin/server.js';
import { Admission } from './admission/admission.js';
import { Room } from './admission/room.js';
import { createApp } from './app.js';
import { createAuthenticate } from './auth/authenticate.js';
import { Guesses } from './auth/guesses.js';
import { Dispatcher } from './dispatch/dispatcher.js';
import { Inbox } from './dispatch/inbox.js';
import { createProblemServer } from './errors/respond.js';
import { Changes } from './events/changes.js';
import { RateLimit } from './limits/rateLimit.js';
import { accountRoutes } from './routes/account.js';
import { batchRoutes } from './routes/batches.js';
import { docsRoutes } from './routes/docs.js';
import { healthRoutes } from './routes/health.js';
import { jobRoutes } from './routes/jobs.js';
import { modelRoutes } from './routes/models.js';
import { predictionRoutes } from './routes/prediction.js';
import { followTls, readTls } from './tls.js';
import { UsageLog } from './usage/usageLog.js';
import { createReadBody } from './validate/body.js';
import { createReadUpload } from './validate/upload.js';

const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
/** A drain that outlasts every deadline by so much is cut short, in milliseconds. */
const DRAIN_SLACK_MS = 1_000;
const SWEEP_EVERY_MS = 1_000;
/** Beyond the longest wait for an answer, in milliseconds; an upload, a stream of events and a page of results move sooner. */
const STUCK_MS = 120_000;
/** A JSON batch may have so many times the size of another JSON body. */
const JSON_BATCH_BODIES = 8;

async function startGateway(settings: Settings, log: Log): Promise<App> {
  const gatewayId = randomUUID();
  const tls = readTls(settings);
  const redis = connectRedis(settings.REDIS_URL, 'request', log);
  await requireServer(redis, log);
  const clock = new RedisClock(redis);
  clock.on('away', () => log.warn('Redis does not answer: requests get 503 until it does'));
  const queueOptions = {
    connection: redis,
    prefix: PREFIX,
    skipWaitingForReady: true,
    skipVersionCheck: true,
  };
  const queue = new Queue<Job>(queueName(settings.MODEL, 'interactive'), queueOptions);
  const bulkQueue = new Queue<ChunkJob>(queueName(settings.MODEL, 'bulk'), queueOptions);
  for (const each of [queue, bulkQueue]) each.on('error', (err) => log.debug({ err }, 'Queue error'));
  const inboxRedis = connectRedis(settings.REDIS_URL, 'blocking', log);
  const inbox = new Inbox(inboxRedis, gatewayId, log);
  const dispatcher = new Dispatcher({
    queue,
    inbox,
    clock,
    gatewayId,
    // Texts that run one by one may take long: each job may then go to another worker.
    mayShare: () => admission.fleet.every(({ facts }) => facts?.batching !== false),
    log,
  });
  const admission = new Admission({
    redis,
    clock,
    gatewayId,
    model: settings.MODEL,
    waiting: () => dispatcher.waiting,
    log,
  });
  const ledger = new Ledger(redis, {
    resultTtlMs: settings.RESULT_TTL_SECONDS * 1000,
    batchTimeoutMs: settings.BATCH_TIMEOUT_SECONDS * 1000,
  });
  const changes = new Changes(connectRedis(settings.REDIS_URL, 'subscriber', log), ledger, log);
  const mostOutNow = () => mostOut(admission.fleet, settings.MODEL);
  const sweeps = setInterval(() => {
    if (clock.away) return;
    sweep({
      redis,
      ledger,
      queueOf: (model) => (model === settings.MODEL ? bulkQueue : undefined),
      mostOutFor: (model) => mostOut(admission.fleet, model),
      everyMs: SWEEP_EVERY_MS,
      onError: (err, one) => log.warn({ err, of: one }, 'A sweep could not mend this'),
    }).catch((err: unknown) => log.debug({ err }, 'A sweep was cut short'));
  }, SWEEP_EVERY_MS);
  const rateLimit = new RateLimit(
    redis,
    clock,
    [{ limit: settings.RATE_LIMIT_REQUESTS, windowSeconds: settings.RATE_LIMIT_WINDOW_SECONDS }],
    log,
  );
  const requestTimeoutSeconds = settings.REQUEST_TIMEOUT_SECONDS;
  const maxTextChars = settings.MAX_TEXT_CHARS;
  const bounds: Bounds = {
    maxTextChars,
    requestTimeoutSeconds,
    maxBatchTexts: settings.MAX_BATCH_TEXTS,
    models: [settings.MODEL],
  };
  const routes = routesFor(bounds);
  const usage = new Usage(redis);
  const usageLog = new UsageLog(usage, clock, gatewayId, log);
  const guesses = new Guesses(redis, settings.AUTH_FAILURES_PER_MINUTE);
  const authenticate = createAuthenticate(new Keyring(redis), guesses, usageLog, clock);
  let draining = false;
  const isDraining = () => draining;
  const health = healthRoutes(admission, clock, isDraining);

  const app = createApp({
    routes,
    handlers: {
      ...predictionRoutes({ admission, dispatcher, requestTimeoutSeconds }),
      ...batchRoutes({
        ledger,
        queue: bulkQueue,
        clock,
        readUpload: createReadUpload({
          readBody: createReadBody(JSON_BATCH_BODIES * settings.MAX_BODY_BYTES),
          body: batchBody(bounds),
          line: batchLine(bounds),
          maxBytes: settings.MAX_BATCH_BYTES,
          maxTextChars,
        }),
        model: settings.MODEL,
        revision: settings.MODEL_REVISION,
        room: new Room(redis),
        maxBatchTexts: settings.MAX_BATCH_TEXTS,
        mostOut: mostOutNow,
        log,
      }),
      ...jobRoutes({ ledger, queue: bulkQueue, changes, mostOut: mostOutNow, draining: isDraining, log }),
      ...accountRoutes(rateLimit),
      ...modelRoutes({ admission, model: settings.MODEL, revision: settings.MODEL_REVISION }),
      ...health,
      ...docsRoutes(routes, version),
    },
    authenticate: async (request, access) => (access === 'admin' ? undefined : authenticate(request, access)),
    rateLimit,
    usage: usageLog,
    readBody: createReadBody(settings.MAX_BODY_BYTES),
    draining: isDraining,
    publicDocs: settings.PUBLIC_DOCS,
    trustProxy: settings.TRUST_PROXY,
    corsOrigins: settings.CORS_ORIGINS,
    secure: tls !== undefined,
    log,
  });

  const server = createProblemServer(app, log, {}, tls);
  // A connection on which nothing moves either way, as when an answer is not read.
  server.timeout = requestTimeoutSeconds * 1000 + STUCK_MS;
  /** Requests that are not answered yet. */
  const unanswered = new Set<ServerResponse>();
  server.on('request', (_request, response) => {
    unanswered.add(response);
    response.on('close', () => unanswered.delete(response));
    // A drain waits for no connection that is kept alive for nothing.
    response.on('finish', () => draining && setImmediate(() => server.closeIdleConnections()));
  });
  const port = await listen(server, { host: settings.HOST, port: settings.PORT }).catch(
    (error: NodeJS.ErrnoException) => {
      throw new StartError(
        error.code === 'EADDRINUSE'
          ? `PORT: ${settings.PORT} is in use; set PORT to another`
          : `PORT or HOST: cannot listen there (${error.code ?? error.message})`,
        EXIT_CONFIG,
      );
    },
  );
  const stopFollowing = followTls(server, settings, log);
  const admin = await startAdminServer({
    settings,
    redis,
    clock,
    guesses,
    usage,
    usageLog,
    rateLimit,
    health,
    draining: isDraining,
    version,
    log,
  }).catch((error: NodeJS.ErrnoException) => {
    throw new StartError(
      `ADMIN_PORT or ADMIN_HOST: cannot listen there (${error.code ?? error.message})`,
      EXIT_CONFIG,
    );
  });
  log.info(
    {
      port,
      admin_port: admin.port,
      // The log takes a password out.
      redis: settings.REDIS_URL,
      model: settings.MODEL,
    },
    'The gateway listens',
  );

  let closing: Promise<void> | undefined;
  return {
    facts: { port, adminPort: admin.port },
    close: () => {
      closing ??= (async () => {
        draining = true;
        // So that nobody sends another request on a connection that is about to be closed.
        for (const response of unanswered)
          if (!response.headersSent) response.setHeader('Connection', 'close');
        changes.close();
        const closed = new Promise((resolve) => server.close(resolve));
        server.closeIdleConnections();
        await Promise.race([
          closed,
          delay(requestTimeoutSeconds * 1000 + DRAIN_SLACK_MS, undefined, { ref: false }),
        ]);
        server.closeAllConnections();
        stopFollowing();
        await admin.close();
        clearInterval(sweeps);
        await usageLog.close();
        await admission.close();
        rateLimit.close();
        clock.close();
        await inbox.close();
        await queue.close();
        await bulkQueue.close();
        redis.disconnect();
      })();
      return closing;
    },
  };
}

await runApp('gateway', startGateway);
