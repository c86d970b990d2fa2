import { type Bounds, batchBody, batchLine, familyRoutesFor, routesFor } from '@sluice/contract';
import type { Ledger, Log, Settings } from '@sluice/shared';
import type { Express } from 'express';
import type { RedisMemory } from '../../admission/redisMemory.js';
import { createReadBody, LARGE_BODIES } from '../../http/body.js';
import { createFamily, type Family } from '../../http/family.js';
import type { Changes } from '../../jobs/changes.js';
import type { createSubmitJob } from '../../jobs/submission.js';
import { createReadUpload } from '../../jobs/upload.js';
import type { RateLimit } from '../../limits/rateLimit.js';
import type { StreamLimit } from '../../limits/streamLimit.js';
import type { AnswerInputs } from '../../models/answerInputs.js';
import type { Catalog } from '../../models/catalog.js';
import type { WebhookFor } from '../../webhooks/webhookFor.js';
import { accountRoutes } from './account.js';
import { batchRoutes } from './batches.js';
import { docsRoutes, mountDocsFiles } from './docs.js';
import type { healthRoutes } from './health.js';
import { jobRoutes } from './jobs.js';
import { modelRoutes } from './models.js';
import { mountPlaygroundFiles, playgroundRoutes } from './playground.js';
import { predictionRoutes } from './predictions.js';
import { problemJson } from './problemJson.js';

interface Services {
  settings: Settings;
  bounds: Bounds;
  memory: RedisMemory;
  submitJob: ReturnType<typeof createSubmitJob>;
  webhookFor: WebhookFor;
  catalog: Catalog;
  answerInputs: AnswerInputs;
  ledger: Ledger;
  changes: Changes;
  streamLimit: StreamLimit;
  rateLimit: RateLimit;
  health: ReturnType<typeof healthRoutes>;
  draining: () => boolean;
  version: string;
  log: Log;
}

/** Sluice's own API. */
export function nativeFamily(services: Services): Family {
  const {
    settings,
    bounds,
    memory,
    submitJob,
    webhookFor,
    catalog,
    answerInputs,
    ledger,
    changes,
    streamLimit,
    rateLimit,
    health,
    draining,
    version,
    log,
  } = services;
  const routes = routesFor(bounds);
  const line = batchLine(bounds);
  const family = createFamily(
    routes,
    {
      ...predictionRoutes(catalog, answerInputs),
      ...batchRoutes({
        catalog,
        memory,
        maxTextChars: bounds.maxTextChars,
        webhookFor,
        readUpload: createReadUpload({
          readBody: createReadBody(LARGE_BODIES * settings.MAX_BODY_BYTES),
          body: batchBody(bounds),
          lines: line,
          maxBytes: settings.MAX_BATCH_BYTES,
          maxLineBytes: maxLineBytes(catalog, bounds.maxTextChars),
        }),
        submitJob,
      }),
      ...jobRoutes({ ledger, catalog, changes, streamLimit, draining, log }),
      ...accountRoutes(rateLimit),
      ...modelRoutes(catalog, bounds.maxTextChars),
      ...health,
      ...playgroundRoutes(),
      ...docsRoutes({ ...routes, ...familyRoutesFor(bounds) }, version, bounds),
    },
    problemJson,
  );
  const mountFiles = (app: Express) => {
    mountDocsFiles(app);
    mountPlaygroundFiles(app);
  };
  if (settings.PUBLIC_DOCS) return { ...family, mountFiles };
  const closed: readonly unknown[] = [routes.playground, routes.docs, routes.openapi];
  return { ...family, routes: family.routes.filter(({ route }) => !closed.includes(route)) };
}

/** A character takes up to 12 bytes in JSON (a pair of \\u escapes). */
const JSON_CHARACTER_BYTES = 12;
/** For the id and the syntax of a line. */
const LINE_SYNTAX_BYTES = 8_192;
/** Texts that an input to rank may have in one line, each of the longest kind. */
const TEXTS_PER_LINE = 16;

/** The longest line of an upload. Only some tasks have inputs of several texts. */
function maxLineBytes(catalog: Catalog, maxTextChars: number): number {
  const texts = catalog.defaultFor('text-ranking') ? TEXTS_PER_LINE : 2;
  return texts * JSON_CHARACTER_BYTES * maxTextChars + LINE_SYNTAX_BYTES;
}
