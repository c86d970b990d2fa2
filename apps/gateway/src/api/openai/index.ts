import { type Bounds, embeddingsBody, moderationsBody, openAiRoutesFor } from '@sluice/contract';
import type { Ledger, Log, RedisClock, Settings } from '@sluice/shared';
import type { RedisMemory } from '../../admission/redisMemory.js';
import type { Files } from '../../files/files.js';
import { LARGE_BODIES } from '../../http/body.js';
import { createFamily, type Family } from '../../http/family.js';
import type { createSubmitJob } from '../../jobs/submission.js';
import type { AnswerInputs } from '../../models/answerInputs.js';
import type { Catalog } from '../../models/catalog.js';
import type { WebhookFor } from '../../webhooks/webhookFor.js';
import { batchHandlers } from './batches.js';
import { embeddingsHandlers } from './embeddings.js';
import { fileHandlers } from './files.js';
import { openAiLimitHeaders } from './limitHeaders.js';
import { openAiModels } from './models.js';
import { moderationsHandlers } from './moderations.js';
import { openAiError } from './openAiError.js';

interface Services {
  settings: Settings;
  bounds: Bounds;
  catalog: Catalog;
  answerInputs: AnswerInputs;
  files: Files;
  ledger: Ledger;
  clock: RedisClock;
  memory: RedisMemory;
  submitJob: ReturnType<typeof createSubmitJob>;
  webhookFor: WebhookFor;
  log: Log;
}

/** The OpenAI API (https://platform.openai.com/docs/api-reference), as far as small models can answer it. */
export function openAiFamily(services: Services): Family {
  const { settings, bounds, catalog } = services;
  return createFamily(
    openAiRoutesFor(bounds),
    {
      ...embeddingsHandlers(services),
      ...moderationsHandlers(services),
      ...openAiModels(catalog, new Date()),
      ...fileHandlers(services),
      ...batchHandlers({
        ...services,
        bodies: { embeddings: embeddingsBody(bounds), moderations: moderationsBody(bounds) },
        maxTextChars: bounds.maxTextChars,
        maxInputs: settings.MAX_INPUTS,
        maxRequests: settings.MAX_BATCH_TEXTS,
        maxLineBytes: LARGE_BODIES * settings.MAX_BODY_BYTES,
        jobTimeoutMs: settings.BATCH_TIMEOUT_SECONDS * 1000,
      }),
    },
    openAiError,
    openAiLimitHeaders,
  );
}
