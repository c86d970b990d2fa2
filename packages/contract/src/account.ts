import * as z from 'zod';

/** What a key may be used for. `batch` covers jobs. A new key has both. */
export const scopeSchema = z.enum(['predict', 'batch']);
export type Scope = z.infer<typeof scopeSchema>;

/** What a window of a rate limit counts. */
export const limitUnitSchema = z.enum(['requests', 'texts', 'tokens']);
export type LimitUnit = z.infer<typeof limitUnitSchema>;

export const itemsSchema = z.object({ api_key: z.string().meta({ description: "The caller's key" }) });

export const accountSchema = z
  .object({
    key_id: z.string(),
    name: z.string(),
    scopes: z.array(scopeSchema),
    limits: z.array(
      z.object({
        limit: z.int().min(1),
        window_seconds: z.int().min(1),
        unit: limitUnitSchema,
        remaining: z.int().min(0),
        reset_seconds: z
          .int()
          .min(0)
          .meta({ description: 'Until the next slot is free; 0 when all are free' }),
      }),
    ),
    bulk: z
      .object({ limit: z.int().min(0), queued: z.int().min(0) })
      .meta({ description: 'How many texts may wait in unfinished jobs, and how many do' }),
    expires_at: z.iso.datetime().nullable(),
  })
  .meta({ id: 'Account' });

export type Account = z.infer<typeof accountSchema>;

export const healthSchema = z.object({ status: z.literal('ok') });

export const readySchema = z.object({
  status: z.literal('ready'),
  workers: z.int().min(0).meta({ description: 'Live workers; a gateway is ready even without any' }),
  storage: z.enum(['ok', 'full']).meta({
    description: '`full`: Redis takes no writes, so work gets 503; results can be read',
  }),
});
