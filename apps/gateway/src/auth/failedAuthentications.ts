import { names } from '@sluice/shared';
import type { Redis } from 'ioredis';
import ipaddr from 'ipaddr.js';
import { Problem } from '../http/problem.js';
import { FixedWindow } from '../limits/fixedWindow.js';

/** The first four groups of an IPv6 address are its /64 network, all of which usually belongs to one client. */
const NETWORK_GROUPS = 4;

/** The client that an address is counted as: an IPv6 address by its /64, an IPv4-mapped IPv6 address as IPv4. */
export function clientOf(address: string | undefined): string {
  // Some proxies also forward the port.
  const [, v6, v4] = /^(?:\[(.*)\](?::\d+)?|([\d.]+):\d+)$/.exec(address ?? '') ?? [];
  const bare = v6 ?? v4 ?? address ?? '';
  if (!ipaddr.isValid(bare)) return 'unknown';
  const parsed = ipaddr.process(bare);
  if (parsed instanceof ipaddr.IPv4) return parsed.toString();
  return `${parsed.parts
    .slice(0, NETWORK_GROUPS)
    .map((part) => part.toString(16))
    .join(':')}::/64`;
}

/**
 * Counts failed authentications by client. It makes one call to Redis for each failure, and none for a client that is
 * over the limit, which this process remembers.
 */
export class FailedAuthentications {
  #window: FixedWindow;

  /** @param perMinute number of failures in a minute after which further ones get 429 */
  constructor(redis: Redis, perMinute: number) {
    this.#window = new FixedWindow(redis, { prefix: names.failedAuthentications, perMinute, remember: true });
  }

  /**
   * Counts a failure.
   * @throws Problem `too_many_failures` if the client is over the limit
   */
  async record(address: string | undefined): Promise<void> {
    const retryAfter = await this.#window.count(clientOf(address));
    if (retryAfter !== undefined)
      throw new Problem('too_many_failures', { headers: { 'Retry-After': retryAfter } });
  }
}
