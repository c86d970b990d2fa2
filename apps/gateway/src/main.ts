import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { batchBody, batchLine, routesFor } from '@sluice/contract';
import {
  type App,
  type ChunkJob,
  connectRedis,
  EXIT_CONFIG,
  type Job,
  Keyring,
  Ledger,
  type Log,
  mostOut,
  PREFIX,
  queueName,
  RedisClock,
  redactUrls,
  runApp,
  type Settings,
  StartError,
  sweep,
} from '@sluice/shared';
import { Queue } from 'bullmq';
import { Admission } from './admission/admission.js';
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
import { createReadBody } from './validate/body.js';
import { createReadUpload } from './validate/upload.js';

const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
/** A drain that outlasts every deadline by so much is cut short, in milliseconds. */
const DRAIN_SLACK_MS = 1_000;
const SWEEP_EVERY_MS = 1_000;
/** A JSON batch may have so many times the size of another JSON body. */
const JSON_BATCH_BODIES = 8;

async function startGateway(settings: Settings, log: Log): Promise<App> {
  const gatewayId = randomUUID();
  const redis = connectRedis(settings.REDIS_URL, 'request', log);
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
  const bounds = { maxTextChars, requestTimeoutSeconds, maxBatchTexts: settings.MAX_BATCH_TEXTS };
  const routes = routesFor(bounds);
  let draining = false;
  const isDraining = () => draining;

  const app = createApp({
    routes,
    handlers: {
      ...predictionRoutes({ admission, dispatcher, model: settings.MODEL, requestTimeoutSeconds }),
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
        redis,
        maxBatchTexts: settings.MAX_BATCH_TEXTS,
        mostOut: mostOutNow,
        log,
      }),
      ...jobRoutes({ ledger, queue: bulkQueue, changes, mostOut: mostOutNow, draining: isDraining, log }),
      ...accountRoutes(rateLimit),
      ...modelRoutes({ admission, model: settings.MODEL, revision: settings.MODEL_REVISION }),
      ...healthRoutes(admission, clock, isDraining),
      ...docsRoutes(routes, version),
    },
    authenticate: createAuthenticate(
      new Keyring(redis),
      new Guesses(redis, settings.AUTH_FAILURES_PER_MINUTE),
      clock,
    ),
    rateLimit,
    readBody: createReadBody(settings.MAX_BODY_BYTES),
    draining: isDraining,
    publicDocs: settings.PUBLIC_DOCS,
    log,
  });

  // No limit to all of a request: an upload takes its time. Each reader of a body watches for silence.
  const server = createProblemServer(app, log, { requestTimeout: 0 });
  /** Requests that are not answered yet. */
  const unanswered = new Set<ServerResponse>();
  server.on('request', (_request, response) => {
    unanswered.add(response);
    response.on('close', () => unanswered.delete(response));
    // A drain waits for no connection that is kept alive for nothing.
    response.on('finish', () => draining && setImmediate(() => server.closeIdleConnections()));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      reject(
        new StartError(
          error.code === 'EADDRINUSE'
            ? `PORT: ${settings.PORT} is in use; set PORT to another`
            : `PORT or HOST: cannot listen there (${error.code ?? error.message})`,
          EXIT_CONFIG,
        ),
      );
    });
    server.listen({ port: settings.PORT, host: settings.HOST }, resolve);
  });
  const { port } = server.address() as AddressInfo;
  log.info({ port, redis: redactUrls(settings.REDIS_URL), model: settings.MODEL }, 'The gateway listens');

  let closing: Promise<void> | undefined;
  return {
    facts: { port },
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
        clearInterval(sweeps);
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
