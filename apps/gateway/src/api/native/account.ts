import { unitOf } from '@sluice/shared';
import { seconds } from '../../limits/headers.js';
import type { RateLimit } from '../../limits/rateLimit.js';
import type { NativeHandlers } from './handlers.js';

/** Handlers of the routes about the caller's key. */
export function accountRoutes(rateLimit: RateLimit): Pick<NativeHandlers, 'items' | 'me'> {
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
        limits: windows.map((window) => ({
          limit: window.limit,
          window_seconds: window.windowSeconds,
          unit: unitOf(window),
          remaining: window.remaining,
          reset_seconds: seconds(window.resetMs),
        })),
        bulk: { limit: record.bulkLimit, queued: record.bulkQueued },
        expires_at: record.expiresAtMs === undefined ? null : new Date(record.expiresAtMs).toISOString(),
      };
    },
  };
}
