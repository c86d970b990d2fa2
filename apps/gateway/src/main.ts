import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { routesFor } from '@sluice/contract';
import {
  type App,
  connectRedis,
  EXIT_CONFIG,
  type Job,
  Keyring,
  type Log,
  PREFIX,
  queueName,
  RedisClock,
  redactUrls,
  runApp,
  type Settings,
  StartError,
} from '@sluice/shared';
import { Queue } from 'bullmq';
import { Admission } from './admission/admission.js';
import { createApp } from './app.js';
import { createAuthenticate } from './auth/authenticate.js';
import { Guesses } from './auth/guesses.js';
import { Dispatcher } from './dispatch/dispatcher.js';
import { Inbox } from './dispatch/inbox.js';
import { createProblemServer } from './errors/respond.js';
import { RateLimit } from './limits/rateLimit.js';
import { accountRoutes } from './routes/account.js';
import { docsRoutes } from './routes/docs.js';
import { healthRoutes } from './routes/health.js';
import { predictionRoutes } from './routes/prediction.js';
import { createReadBody } from './validate/body.js';

const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
/** A drain that outlasts every deadline by so much is cut short, in milliseconds. */
const DRAIN_SLACK_MS = 1_000;

async function startGateway(settings: Settings, log: Log): Promise<App> {
  const gatewayId = randomUUID();
  const redis = connectRedis(settings.REDIS_URL, 'request', log);
  const clock = new RedisClock(redis);
  clock.on('away', () => log.warn('Redis does not answer: requests get 503 until it does'));
  const queue = new Queue<Job>(queueName(settings.MODEL, 'interactive'), {
    connection: redis,
    prefix: PREFIX,
    skipWaitingForReady: true,
    skipVersionCheck: true,
  });
  queue.on('error', (err) => log.debug({ err }, 'Queue error'));
  const inboxRedis = connectRedis(settings.REDIS_URL, 'blocking', log);
  const inbox = new Inbox(inboxRedis, gatewayId, log);
  const dispatcher = new Dispatcher(queue, inbox, clock, gatewayId, log);
  const admission = new Admission(redis, log);
  const rateLimit = new RateLimit(
    redis,
    clock,
    [{ limit: settings.RATE_LIMIT_REQUESTS, windowSeconds: settings.RATE_LIMIT_WINDOW_SECONDS }],
    log,
  );
  const requestTimeoutSeconds = settings.REQUEST_TIMEOUT_SECONDS;
  const routes = routesFor({ maxTextChars: settings.MAX_TEXT_CHARS, requestTimeoutSeconds });
  let draining = false;
  const isDraining = () => draining;

  const app = createApp({
    routes,
    handlers: {
      ...predictionRoutes({ admission, dispatcher, model: settings.MODEL, requestTimeoutSeconds }),
      ...accountRoutes(rateLimit),
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

  const server = createProblemServer(app, log);
  // A drain waits for no connection that is kept alive for nothing.
  server.on('request', (_request, response) => {
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
        const closed = new Promise((resolve) => server.close(resolve));
        server.closeIdleConnections();
        await Promise.race([
          closed,
          delay(requestTimeoutSeconds * 1000 + DRAIN_SLACK_MS, undefined, { ref: false }),
        ]);
        server.closeAllConnections();
        admission.close();
        rateLimit.close();
        clock.close();
        await inbox.close();
        await queue.close();
        redis.disconnect();
      })();
      return closing;
    },
  };
}

await runApp('gateway', startGateway);
