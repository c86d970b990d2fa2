import { adminRoutes, openApi } from '@sluice/contract';
import { Keyring, type Log, listen, type RedisClock, type Settings, type Usage } from '@sluice/shared';
import type { Redis } from 'ioredis';
import { createApp } from '../app.js';
import { createAuthenticateAdmin } from '../auth/authenticate.js';
import type { Guesses } from '../auth/guesses.js';
import { Problem } from '../errors/problem.js';
import { createProblemServer } from '../errors/respond.js';
import type { RateLimit } from '../limits/rateLimit.js';
import type { Handlers } from '../routes/handlers.js';
import { keyRoutes } from '../routes/keys.js';
import type { UsageLog } from '../usage/usageLog.js';
import { createReadBody } from '../validate/body.js';

interface Services {
  settings: Settings;
  redis: Redis;
  clock: RedisClock;
  guesses: Guesses;
  usage: Usage;
  usageLog: UsageLog;
  rateLimit: RateLimit;
  health: Pick<Handlers, 'health' | 'ready'>;
  draining: () => boolean;
  version: string;
  log: Log;
}

/** Where operators and their tools talk to the gateway. */
export interface AdminServer {
  port: number;
  close(): Promise<void>;
}

/**
 * Serves the table of the admin port. Without a token what needs it is not there.
 * A port in use is no reason not to serve: another is taken then, and logged.
 */
export async function startAdminServer(services: Services): Promise<AdminServer> {
  const { settings, redis, clock, guesses, usage, usageLog, rateLimit, health, draining, version, log } =
    services;
  const token = settings.ADMIN_TOKEN;
  const authenticate = token === undefined ? undefined : createAuthenticateAdmin(token, guesses);
  const document = openApi(adminRoutes, version);
  const app = createApp({
    routes: adminRoutes,
    handlers: {
      ...keyRoutes({ keyring: new Keyring(redis), usage, clock, log }),
      ...health,
      async openapi() {
        return document;
      },
    },
    authenticate: async (request) => {
      if (authenticate === undefined) {
        throw new Problem('not_found', { detail: 'Not Found: ADMIN_TOKEN is not set' });
      }
      return authenticate(request);
    },
    rateLimit,
    usage: usageLog,
    readBody: createReadBody(settings.MAX_BODY_BYTES),
    draining,
    publicDocs: true,
    trustProxy: [],
    corsOrigins: [],
    secure: false,
    log,
  });
  const server = createProblemServer(app, log);
  const port = await listen(
    server,
    { host: settings.ADMIN_HOST, port: settings.ADMIN_PORT },
    'take a free one',
  );
  if (settings.ADMIN_PORT !== 0 && port !== settings.ADMIN_PORT) {
    log.warn({ wanted: settings.ADMIN_PORT, port }, 'ADMIN_PORT is in use; the admin port is another');
  }
  return {
    port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
