import type { RedisClock } from '@sluice/shared';
import type { Storage } from '../../admission/storage.js';
import { Problem } from '../../http/problem.js';
import type { Catalog } from '../../models/catalog.js';
import type { NativeHandlers } from './handlers.js';

/** Handlers of the health checks. */
export function healthRoutes(
  catalog: Catalog,
  clock: RedisClock,
  storage: Storage,
  draining: () => boolean,
): Pick<NativeHandlers, 'health' | 'ready'> {
  return {
    async health() {
      return { status: 'ok' };
    },
    async ready() {
      if (draining()) throw new Problem('shutting_down');
      if (clock.away)
        throw new Problem('unavailable', { detail: 'Redis does not answer', extensions: { workers: null } });
      await catalog.refresh();
      return { status: 'ready', workers: catalog.workerCount, storage: storage.full ? 'full' : 'ok' };
    },
  };
}
