import { adminExamples, adminRoutes, openApi } from '@sluice/contract';
import {
  type AdminPort,
  EXIT_CONFIG,
  Keyring,
  type Ledger,
  type Log,
  openAdminPort,
  type RedisClock,
  type Settings,
  StartError,
  type Usage,
} from '@sluice/shared';
import type { Redis } from 'ioredis';
import type { healthRoutes } from '../api/native/health.js';
import { problemJson } from '../api/native/problemJson.js';
import { createAuthenticateAdmin } from '../auth/authenticate.js';
import type { FailedAuthentications } from '../auth/failedAuthentications.js';
import { createApp } from '../http/app.js';
import { createFamily } from '../http/family.js';
import { Problem } from '../http/problem.js';
import { createHttpServer } from '../http/server.js';
import type { RateLimit } from '../limits/rateLimit.js';
import type { ReadLimit } from '../limits/readLimit.js';
import type { Metrics } from '../metrics.js';
import type { Catalog } from '../models/catalog.js';
import type { UsageCounter } from '../usage/usageCounter.js';
import { adminJobRoutes } from './jobs.js';
import { keyRoutes } from './keys.js';

interface Services {
  settings: Settings;
  redis: Redis;
  clock: RedisClock;
  failures: FailedAuthentications;
  usage: Usage;
  usageCounter: UsageCounter;
  metrics: Metrics;
  ledger: Ledger;
  catalog: Catalog;
  rateLimit: RateLimit;
  readLimit: ReadLimit;
  health: ReturnType<typeof healthRoutes>;
  draining: () => boolean;
  version: string;
  log: Log;
}

/**
 * Serves the admin routes. Without an admin token the routes that need it do not exist.
 * @throws StartError when the port cannot be opened
 */
export async function startAdminServer(services: Services): Promise<AdminPort> {
  const {
    settings,
    redis,
    clock,
    failures,
    usage,
    usageCounter,
    metrics,
    ledger,
    catalog,
    rateLimit,
    readLimit,
    health,
    draining,
    version,
    log,
  } = services;
  const token = settings.ADMIN_TOKEN;
  const authenticate = token === undefined ? undefined : createAuthenticateAdmin(token, failures);
  let document: ReturnType<typeof openApi> | undefined;
  const keyring = new Keyring(redis);
  const family = createFamily(
    adminRoutes,
    {
      ...keyRoutes({ keyring, usage, clock, log }),
      ...adminJobRoutes({ ledger, keyring, catalog, clock, log }),
      ...health,
      async metrics({ response }) {
        response.set('Content-Type', metrics.contentType).end(await metrics.text());
        return undefined;
      },
      async openapi() {
        document ??= openApi(adminRoutes, version, adminExamples);
        return document;
      },
    },
    problemJson,
  );
  const { app } = createApp({
    families: [family],
    errorFormat: problemJson,
    authenticate: async (request) => {
      if (authenticate === undefined) {
        throw new Problem('not_found', { detail: 'Not Found: ADMIN_TOKEN is not set' });
      }
      return authenticate(request);
    },
    overload: () => undefined,
    rateLimit,
    readLimit,
    usage: usageCounter,
    maxBodyBytes: settings.MAX_BODY_BYTES,
    draining,
    trustProxy: [],
    corsOrigins: [],
    secure: false,
    traced: false,
    onDone: () => {},
    log,
  });
  return openAdminPort(createHttpServer(app, { errorFormat: problemJson, log }), {
    host: settings.ADMIN_HOST,
    port: settings.ADMIN_PORT,
    setting: 'ADMIN_PORT',
    log,
  }).catch((error: NodeJS.ErrnoException) => {
    throw new StartError(
      `ADMIN_PORT or ADMIN_HOST: cannot listen (${error.code ?? error.message})`,
      EXIT_CONFIG,
    );
  });
}
