import type { RateLimit } from '../limits/rateLimit.js';
import type { Handlers } from './handlers.js';

/** Handlers of the routes about the caller's own key. */
export function accountRoutes(rateLimit: RateLimit): Pick<Handlers, 'items' | 'me'> {
  return {
    async items({ caller, response }) {
      response.set('Cache-Control', 'no-store');
      return { api_key: caller.key };
    },
    async me({ caller: { record } }) {
      const windows = await rateLimit.look(record);
      return {
        key_id: record.id,
        name: record.name,
        scopes: record.scopes,
        limits: windows.map(({ limit, windowSeconds, remaining, resetMs }) => ({
          limit,
          window_seconds: windowSeconds,
          remaining,
          reset_seconds: Math.ceil(resetMs / 1000),
        })),
        bulk: { limit: record.bulkLimit, queued: record.bulkQueued },
        expires_at: record.expiresAtMs === undefined ? null : new Date(record.expiresAtMs).toISOString(),
      };
    },
  };
}
