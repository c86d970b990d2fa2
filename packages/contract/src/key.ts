import * as z from 'zod';
import { limitUnitSchema, scopeSchema } from './account.js';

/** The longest window: a year, in seconds. */
export const MAX_WINDOW_SECONDS = 31_536_000;
export const MAX_COUNT = 1_000_000_000;
const MAX_WINDOWS = 8;
/** The longest duration of an expiry or grace period: ten years, in seconds. */
export const MAX_LIFE_SECONDS = 10 * MAX_WINDOW_SECONDS;

export const keyNameSchema = z
  .string()
  .min(1)
  .max(200)
  .regex(/^(?=.*\S)\P{Cc}*$/u, 'not 1 to 200 characters on one line')
  .meta({ description: 'For people; need not be unique' });

/** A key that an operator supplies: what every client can send in a header field, and hard to guess. */
export const suppliedKeySchema = z
  .string()
  .regex(/^[\x21-\x7e]{12,256}$/, 'not 12 to 256 printable ASCII characters without spaces');

/** The URL of a webhook. The gateway also checks where its host is. */
export const webhookUrlSchema = z
  .string()
  .max(2_048)
  .refine(
    (text) => URL.canParse(text) && /^https?:$/.test(new URL(text).protocol),
    'It must be a URL that begins with https:// (http:// only with WEBHOOK_ALLOW_PRIVATE)',
  )
  .refine(
    (text) => !URL.canParse(text) || (new URL(text).username === '' && new URL(text).password === ''),
    'It must not contain a user name or password',
  )
  .meta({ format: 'uri', examples: ['https://example.com/webhooks'] });

/** The public id of a key. */
export const keyIdSchema = z.string().regex(/^[0-9a-f]{12}$/, 'not 12 hex digits');
export const keyParams = z.object({ id: keyIdSchema });

/** The windows of a key's rate limit; empty for the configured default. */
export const limitsSchema = z
  .array(
    z.strictObject({
      limit: z
        .int()
        .min(1)
        .max(MAX_COUNT)
        .meta({ description: 'Maximum number of requests, texts or tokens in any window of this length' }),
      window_seconds: z.int().min(1).max(MAX_WINDOW_SECONDS),
      unit: limitUnitSchema.default('requests').meta({
        description:
          "What the limit counts: `requests`; `texts`, the rows that a request gives the model; or `tokens`, as the model's tokenizer counts them after truncation",
      }),
    }),
  )
  .max(MAX_WINDOWS)
  .refine(
    (limits) =>
      new Set(limits.map((limit) => `${limit.window_seconds} ${limit.unit}`)).size === limits.length,
    'Two limits of the same unit have windows of the same length',
  )
  .meta({
    description: 'Rate limits of the key, each with a different window; empty: the default of the server',
  });

const keyFields = {
  name: keyNameSchema,
  scopes: z
    .array(scopeSchema)
    .min(1)
    .max(scopeSchema.options.length)
    .transform((scopes) => [...new Set(scopes)]),
  limits: limitsSchema,
  bulk_limit: z.int().min(0).max(MAX_COUNT).meta({
    description: 'How many texts may wait in unfinished jobs',
  }),
  expires_at: z.iso.datetime({ offset: true }).nullable().meta({ description: 'null: never' }),
  webhook_url: webhookUrlSchema
    .nullable()
    .meta({ description: 'URL that is notified when an OpenAI batch ends; null: none' }),
};

export const createKeyBody = z.strictObject({
  ...keyFields,
  scopes: keyFields.scopes.optional(),
  limits: keyFields.limits.optional(),
  bulk_limit: keyFields.bulk_limit.optional(),
  expires_at: keyFields.expires_at.optional(),
  webhook_url: keyFields.webhook_url.optional(),
});

export const updateKeyBody = z.strictObject(keyFields).partial();

export const rotateKeyBody = z.strictObject({
  grace_seconds: z
    .number()
    .min(0)
    .max(MAX_LIFE_SECONDS)
    .default(0)
    .meta({ description: 'How long the previous secret stays valid in addition to the new one' }),
});

/** A key without its secret. */
export const keySchema = z
  .object({
    key_id: z.string(),
    name: z.string(),
    status: z.enum(['live', 'expired', 'revoked']),
    scopes: z.array(scopeSchema),
    limits: z
      .array(z.object({ limit: z.int().min(1), window_seconds: z.int().min(1), unit: limitUnitSchema }))
      .meta({ description: 'Empty: the default of the server' }),
    bulk_limit: z.int().min(0),
    webhook_url: z.string().nullable(),
    created_at: z.iso.datetime(),
    expires_at: z.iso.datetime().nullable(),
    revoked_at: z.iso.datetime().nullable(),
    last_used_at: z.iso.datetime().nullable().meta({ description: 'Precise to a minute' }),
    previous_secret_until: z.iso.datetime().nullable().meta({
      description: 'Until then the secret before the last rotation is valid too',
    }),
  })
  .meta({ id: 'Key' });
export type KeyBody = z.infer<typeof keySchema>;

export const keyWithSecretSchema = keySchema
  .extend({ key: z.string().meta({ description: 'Shown only once' }) })
  .meta({ id: 'KeyWithSecret' });

export const keysSchema = z.object({ keys: z.array(keySchema), next_cursor: z.string().nullable() });

export const usageDaySchema = z
  .object({
    date: z.iso.date().meta({ description: 'In UTC' }),
    requests: z.int().min(0).meta({ description: 'Requests that used a slot of the rate limit' }),
    texts: z.int().min(0).meta({ description: 'Texts answered in requests, or accepted in jobs' }),
    refused: z.int().min(0).meta({ description: 'Requests refused with 403, 429 or 503' }),
  })
  .meta({ id: 'UsageDay' });
export type UsageDay = z.infer<typeof usageDaySchema>;

export const usageSchema = z.object({
  key_id: z.string(),
  days: z
    .array(usageDaySchema)
    .meta({ description: 'The days with any usage, of the last 90, oldest first' }),
});
