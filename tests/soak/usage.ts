import { setTimeout as delay } from 'node:timers/promises';
import { keyIdOf } from '@sluice/shared';
import type { Checker } from './checker.js';
import { ADMIN_TOKEN, type Fleet } from './fleet.js';

/** Gateways report the usage once a second. */
const REPORTED_WITHIN_MS = 1_500;

interface Used {
  /** Requests that used a slot. */
  certain: number;
  /** Requests whose connection broke, which may have used one. */
  maybe: number;
  /** Requests that Redis had counted at the end of the previous seed. */
  counted: number;
}

/**
 * Compares the usage of each key with the requests of its clients. A killed gateway may lose the usage of its last second, but no request
 * may count twice.
 */
export class Usage {
  #fleet: Fleet;
  #checker: Checker;
  #used = new Map<string, Used>();

  constructor(fleet: Fleet, checker: Checker) {
    this.#fleet = fleet;
    this.#checker = checker;
  }

  /** Counts a request that was answered, refused or broken off. */
  record(key: string, status: number | 'broken'): void {
    const used = this.#used.get(key) ?? { certain: 0, maybe: 0, counted: 0 };
    this.#used.set(key, used);
    if (status === 'broken') used.maybe++;
    else if (status !== 503 && status !== 429) used.certain++;
  }

  /** Checks each key after all requests of a seed have ended. */
  async check(): Promise<void> {
    await delay(REPORTED_WITHIN_MS);
    const [gateway] = this.#fleet.gateways;
    if (gateway === undefined) throw new Error('There is no gateway');
    const { adminPort } = await gateway.app.ready();
    for (const [key, used] of this.#used) {
      const response = await fetch(`http://127.0.0.1:${adminPort}/admin/keys/${keyIdOf(key)}/usage`, {
        headers: { Authorization: `Bearer ${ADMIN_TOKEN}` },
      });
      if (response.status !== 200) throw new Error(`Could not read the usage of a key: ${response.status}`);
      const { days } = (await response.json()) as { days: { requests: number }[] };
      const counted = days.reduce((sum, { requests }) => sum + requests, 0);
      const { certain, maybe } = used;
      if (counted - used.counted > certain + maybe)
        this.#checker.violate(
          'usage-counted-twice',
          `${counted - used.counted} requests; ${certain} were answered, ${maybe} may have been`,
        );
      this.#used.set(key, { certain: 0, maybe: 0, counted });
    }
  }
}
