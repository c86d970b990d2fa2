import { collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import type { RedisClock } from '../redis/clock.js';
import { version } from '../version.js';

/**
 * Creates the registry of an app's metrics: those of the process and of Node, `sluice_build_info` and `sluice_redis_up`. Names and
 * units follow https://prometheus.io/docs/practices/naming/.
 */
export function createRegistry(clock: RedisClock): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  // Gauges with the suffix of a counter; those by type remain.
  for (const what of ['handles', 'requests', 'resources'])
    registry.removeSingleMetric(`nodejs_active_${what}_total`);
  new Gauge({
    name: 'sluice_build_info',
    help: 'Always 1, with the version',
    labelNames: ['version'],
    registers: [registry],
  }).set({ version }, 1);
  new Gauge({
    name: 'sluice_redis_up',
    help: 'Whether Redis answers this process: 1 or 0',
    registers: [registry],
    collect() {
      this.set(clock.away ? 0 : 1);
    },
  });
  return registry;
}
