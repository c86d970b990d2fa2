import type { RedisClock } from '@sluice/shared';
import type { Admission } from '../admission/admission.js';
import { fromRedis, Problem } from '../errors/problem.js';
import type { Handlers } from './handlers.js';

/** Handlers for whoever watches the process. */
export function healthRoutes(
  admission: Admission,
  clock: RedisClock,
  draining: () => boolean,
): Pick<Handlers, 'health' | 'ready'> {
  return {
    async health() {
      return { status: 'ok' };
    },
    async ready() {
      if (draining()) throw new Problem('shutting_down');
      if (clock.away)
        throw new Problem('unavailable', { detail: 'Redis does not answer', extensions: { workers: null } });
      const { length: workers } = await fromRedis(admission.workers());
      return { status: 'ready', workers };
    },
  };
}
