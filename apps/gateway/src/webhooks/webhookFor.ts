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

/** The URL of an OpenAI batch is that of its key, so its client has not sent what is wrong. */
const ofKey = (kind: JobWebhook['kind'], detail: string) =>
  kind === 'job'
    ? detail
    : `The webhook of this API key cannot be used: ${detail}. An operator changes it with: sluice keys update ID --webhook URL`;

/** @param allowPrivate whether addresses of private networks are allowed */
export function createWebhookFor(allowPrivate: boolean): WebhookFor {
  return async (url, key, kind, pointer) => {
    if (url === undefined) return undefined;
    const detail =
      (await webhookProblem(url, allowPrivate)) ??
      (key.webhookSecret === undefined
        ? `The API key has no signing secret. An operator creates it with: sluice keys webhook-secret ${key.id}`
        : undefined);
    if (detail !== undefined)
      throw new Problem('validation_failed', { errors: [{ pointer, detail: ofKey(kind, detail) }] });
    return { url, kind };
  };
}
