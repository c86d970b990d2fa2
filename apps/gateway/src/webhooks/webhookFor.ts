import type { JobWebhook, KeyRecord } from '@sluice/shared';
import { Problem } from '../http/problem.js';
import { webhookProblem } from './address.js';

/**
 * Checks the webhook of a job that is submitted.
 * @param url undefined for none
 * @param kind what the job is called there
 * @param pointer to the URL in the body
 * @throws Problem `validation_failed` for a URL that must not be used, or a key without a signing secret
 */
export type WebhookFor = (
  url: string | undefined,
  key: KeyRecord,
  kind: JobWebhook['kind'],
  pointer: string,
) => Promise<JobWebhook | undefined>;

/** @param allowPrivate whether addresses of private networks are allowed */
export function createWebhookFor(allowPrivate: boolean): WebhookFor {
  return async (url, key, kind, pointer) => {
    if (url === undefined) return undefined;
    const detail =
      (await webhookProblem(url, allowPrivate)) ??
      (key.webhookSecret === undefined
        ? `The key has no signing secret; an operator makes one: sluice keys webhook-secret ${key.id}`
        : undefined);
    if (detail !== undefined) throw new Problem('validation_failed', { errors: [{ pointer, detail }] });
    return { url, kind };
  };
}
