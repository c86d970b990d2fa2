import { names } from '@sluice/shared';
import type { Redis } from 'ioredis';
import ipaddr from 'ipaddr.js';
import { RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';
import { fromRedis, Problem } from '../errors/problem.js';

/** Groups of an IPv6 address that a network has: whoever has one, has all addresses under it. */
const NETWORK_GROUPS = 4;

/** What an address is counted under: IPv6 by its network of 64 bits, IPv4 also where it comes as IPv6. */
export function clientOf(address: string | undefined): string {
  // Some proxies forward the port too.
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
 * Counts wrong keys by address. One Redis call a wrong key; none for an address that is over the limit already,
 * which this process remembers.
 */
export class Guesses {
  #limiter: RateLimiterRedis;

  /** @param perMinute wrong keys an address may send in a minute before further ones get 429 */
  constructor(redis: Redis, perMinute: number) {
    this.#limiter = new RateLimiterRedis({
      storeClient: redis,
      keyPrefix: names.guesses,
      points: perMinute,
      duration: 60,
      inMemoryBlockOnConsumed: perMinute + 1,
    });
  }

  /**
   * Notes a wrong key.
   * @throws Problem `too_many_failures` once the address is over the limit
   */
  async note(address: string | undefined): Promise<void> {
    const result = await fromRedis(
      this.#limiter.consume(clientOf(address)).catch((refusal: unknown) => {
        if (refusal instanceof RateLimiterRes) return refusal;
        throw refusal;
      }),
    );
    // The library has refused: consumed points are over the limit, or not told for an address in its memory.
    if (result.consumedPoints > this.#limiter.points || result.consumedPoints === 0) {
      throw new Problem('too_many_failures', {
        headers: { 'Retry-After': String(Math.max(1, Math.ceil(result.msBeforeNext / 1000))) },
      });
    }
  }
}
