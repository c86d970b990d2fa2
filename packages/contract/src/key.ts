import { z } from 'zod';
import { scopeSchema } from './account.js';

/** A year: the longest window, in seconds. */
export const MAX_WINDOW_SECONDS = 31_536_000;
export const MAX_COUNT = 1_000_000_000;
const MAX_WINDOWS = 8;
/** Ten years: a key that lasts longer lasts for ever. */
export const MAX_LIFE_SECONDS = 10 * MAX_WINDOW_SECONDS;

export const keyNameSchema = z
  .string()
  .min(1)
  .max(200)
  .regex(/^(?=.*\S)\P{Cc}*$/u, 'not 1 to 200 characters on one line')
  .meta({ description: 'For people; need not be unique' });

/** The windows of a key's rate limit; empty for those of the configuration. */
export const limitsSchema = z
  .array(
    z.object({
      limit: z.int().min(1).max(MAX_COUNT).meta({ description: 'Most requests in any such window' }),
      window_seconds: z.int().min(1).max(MAX_WINDOW_SECONDS),
    }),
  )
  .max(MAX_WINDOWS)
  .refine(
    (limits) => new Set(limits.map((limit) => limit.window_seconds)).size === limits.length,
    'Two limits have windows of the same length',
  )
  .meta({ description: 'Own rate limits, each with a window of another length; empty: those of the server' });

const keyFields = {
  name: keyNameSchema,
  scopes: z
    .array(scopeSchema)
    .min(1)
    .max(scopeSchema.options.length)
    .transform((scopes) => [...new Set(scopes)]),
  limits: limitsSchema,
  bulk_limit: z.int().min(0).max(MAX_COUNT).meta({
    description: 'How many texts may wait in unfinished batches',
  }),
  expires_at: z.iso.datetime({ offset: true }).nullable().meta({ description: 'null: never' }),
};

export const createKeyBody = z.object({
  ...keyFields,
  scopes: keyFields.scopes.optional(),
  limits: keyFields.limits.optional(),
  bulk_limit: keyFields.bulk_limit.optional(),
  expires_at: keyFields.expires_at.optional(),
});

export const updateKeyBody = z.object(keyFields).partial();

export const rotateKeyBody = z.object({
  grace_seconds: z
    .number()
    .min(0)
    .max(MAX_LIFE_SECONDS)
    .default(0)
    .meta({ description: 'For how long the secret before is good beside the new one' }),
});

/** A key without its secret. */
export const keySchema = z
  .object({
    key_id: z.string(),
    name: z.string(),
    status: z.enum(['live', 'expired', 'revoked']),
    scopes: z.array(scopeSchema),
    limits: z
      .array(z.object({ limit: z.int().min(1), window_seconds: z.int().min(1) }))
      .meta({ description: 'Empty: those of the server' }),
    bulk_limit: z.int().min(0),
    created_at: z.iso.datetime(),
    expires_at: z.iso.datetime().nullable(),
    revoked_at: z.iso.datetime().nullable(),
    last_used_at: z.iso.datetime().nullable().meta({ description: 'To the minute' }),
    previous_secret_until: z.iso.datetime().nullable().meta({
      description: 'Until then the secret before the last rotation is good too',
    }),
  })
  .meta({ id: 'Key' });
export type KeyBody = z.infer<typeof keySchema>;

export const keyWithSecretSchema = keySchema
  .extend({ key: z.string().meta({ description: 'Shown this once' }) })
  .meta({ id: 'KeyWithSecret' });

export const keysSchema = z.object({ keys: z.array(keySchema), next_cursor: z.string().nullable() });

export const usageDaySchema = z
  .object({
    date: z.iso.date().meta({ description: 'In UTC' }),
    requests: z.int().min(0).meta({ description: 'That took a place in the rate limit' }),
    texts: z.int().min(0).meta({ description: 'Answered one by one, or accepted in batches' }),
    refused: z.int().min(0).meta({ description: 'Refused with 403, 429 or 503' }),
  })
  .meta({ id: 'UsageDay' });
export type UsageDay = z.infer<typeof usageDaySchema>;

export const usageSchema = z.object({
  key_id: z.string(),
  days: z
    .array(usageDaySchema)
    .meta({ description: 'Of the last 90 those on which anything was, oldest first' }),
});
