import { readFileSync } from 'node:fs';
import type { UsageDay } from '@sluice/contract';
import type { Redis, Result } from 'ioredis';
import { z } from 'zod';
import { names } from '../redis/names.js';

// Two folders up from src/keys as well as from dist/keys.
const lua = readFileSync(new URL('../../src/keys/usage.lua', import.meta.url), 'utf8');

declare module 'ioredis' {
  interface RedisCommander<Context> {
    addUsage(keyCount: number, ...keysAndArgs: (string | number)[]): Result<unknown, Context>;
  }
}

/** Days that usage is kept. */
const KEPT_DAYS = 90;
const DAY_MS = 86_400_000;
const leftSchema = z.array(z.string());
/** A time of use is written at most so often, in milliseconds. */
export const USED_EVERY_MS = 60_000;
/** A call may be tried again for so long, in milliseconds. */
const MARK_MS = DAY_MS;

/** A day in UTC, as YYYY-MM-DD. */
export const dayOf = (timeMs: number): string => new Date(timeMs).toISOString().slice(0, 10);

/** What was done with a key on one day. */
export interface Counted extends UsageDay {
  keyId: string;
  /** Redis's time of its last use, in milliseconds since the epoch; 0 for none. */
  usedAtMs: number;
}

/** What was done with each key, by day: a HASH a key. */
export class Usage {
  #redis: Redis;

  constructor(redis: Redis) {
    this.#redis = redis;
    redis.defineCommand('addUsage', { lua });
  }

  /**
   * Adds what a gateway has counted, in one call of one script. A call that is repeated with its number adds nothing.
   * @param call names it: numbers of one gateway go up
   * @param nowMs Redis's time
   * @returns the names of records that were left out, since what stands there is no usage
   */
  async add(
    call: { gatewayId: string; number: number },
    counted: readonly Counted[],
    nowMs: number,
  ): Promise<string[]> {
    const keys = counted.flatMap(({ keyId }) => [names.key(keyId), names.usage(keyId)]);
    const left = await this.#redis.addUsage(
      1 + keys.length,
      names.usageMark(call.gatewayId),
      ...keys,
      call.number,
      MARK_MS,
      KEPT_DAYS * DAY_MS,
      dayOf(nowMs - (KEPT_DAYS - 1) * DAY_MS),
      USED_EVERY_MS,
      ...counted.flatMap((of) => [of.date, of.requests, of.texts, of.refused, Math.round(of.usedAtMs)]),
    );
    return leftSchema.parse(left);
  }

  /** What was done with a key in the last 90 days: the days on which anything was, oldest first. */
  async read(keyId: string): Promise<UsageDay[]> {
    const stored = await this.#redis.hgetall(names.usage(keyId));
    const dates = [...new Set(Object.keys(stored).map((field) => field.slice(0, 10)))].sort();
    return dates.map((date) => {
      const count = (kind: keyof Omit<UsageDay, 'date'>) => Number(stored[`${date}:${kind}`] ?? 0);
      return { date, requests: count('requests'), texts: count('texts'), refused: count('refused') };
    });
  }
}
