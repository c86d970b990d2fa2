import type { KeyRecord } from '@sluice/shared';
import { textClassification } from '@sluice/tasks';
import type { RedisMemory } from '../../admission/redisMemory.js';
import { Problem } from '../../http/problem.js';
import { idempotencyKeyOf } from '../../jobs/idempotencyKey.js';
import type { createSubmitJob, Submitted } from '../../jobs/submission.js';
import type { createReadUpload, Upload } from '../../jobs/upload.js';
import type { Catalog } from '../../models/catalog.js';
import { parseParameters } from '../../models/inputs.js';
import type { WebhookFor } from '../../webhooks/webhookFor.js';
import type { NativeHandlers } from './handlers.js';

interface Services {
  catalog: Catalog;
  memory: RedisMemory;
  maxTextChars: number;
  webhookFor: WebhookFor;
  readUpload: ReturnType<typeof createReadUpload>;
  submitJob: ReturnType<typeof createSubmitJob>;
}

/** Results of a classifier hold the best label, unless the request asks for others. */
const CLASSIFIER_DEFAULTS = { top_k: 1 };

/** Handler of the route that takes batches. */
export function batchRoutes({
  catalog,
  memory,
  maxTextChars,
  webhookFor,
  readUpload,
  submitJob,
}: Services): Pick<NativeHandlers, 'analyzeBatch'> {
  async function submit(
    key: KeyRecord,
    upload: Upload,
    named: string | undefined,
    idempotencyKey: string | undefined,
    signal: AbortSignal,
  ): Promise<Submitted> {
    if (upload.model !== undefined && named !== undefined && upload.model !== named)
      throw new Problem('validation_failed', {
        errors: [{ pointer: '/model', detail: 'The body and the URL name different models' }],
      });
    const model = catalog.selectAny(upload.model ?? named, textClassification.name);
    await catalog.refreshIfUnknown();
    const defaults = model.spec.task === textClassification.name ? CLASSIFIER_DEFAULTS : {};
    const parameters = parseParameters(
      model.task,
      { ...defaults, ...upload.parameters },
      model.facts(),
      maxTextChars,
    );
    const webhook = await webhookFor(upload.webhook?.url, key, 'job', '/webhook/url');
    return submitJob({
      key,
      model,
      parameters,
      upload,
      idempotencyKey,
      fingerprinted: webhook,
      signal,
      ...(webhook ? { webhook } : {}),
    });
  }

  return {
    async analyzeBatch({ caller: { record }, query, request, response, signal }) {
      // Refuse early if possible.
      await memory.check(0);
      const idempotencyKey = idempotencyKeyOf(request);
      const upload = await readUpload(request, response);
      const { jobId, status, total, created } = await submit(
        record,
        upload,
        query.model,
        idempotencyKey,
        signal,
      ).finally(() => upload.close());
      if (created) response.locals.texts = total;
      const url = `/jobs/${jobId}`;
      response.set('Location', url);
      return { message: 'Processing started', job_id: jobId, status, total, status_url: url };
    },
  };
}
