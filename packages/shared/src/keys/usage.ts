import { readFileSync } from 'node:fs';
import type { UsageDay } from '@sluice/contract';
import type { Redis, Result } from 'ioredis';
import * as z from 'zod';
import { names } from '../redis/names.js';

// The script stays in src/: two folders up from src/keys and from dist/keys alike.
const lua = readFileSync(new URL('../../src/keys/usage.lua', import.meta.url), 'utf8');

declare module 'ioredis' {
  interface RedisCommander<Context> {
    addUsage(keyCount: number, ...keysAndArgs: (string | number)[]): Result<unknown, Context>;
  }
}

/** Days that usage is kept. */
const KEPT_DAYS = 90;
const DAY_MS = 86_400_000;
const skippedSchema = z.array(z.string());
/** The time of a key's last use is written at most this often, in milliseconds. */
export const USED_EVERY_MS = 60_000;
/** A report may be repeated for this long, in milliseconds. */
const REPORT_MEMORY_MS = DAY_MS;

/** A day in UTC, as YYYY-MM-DD. */
export const dayOf = (timeMs: number): string => new Date(timeMs).toISOString().slice(0, 10);

/** Usage of one key on one day. */
export interface KeyUsage extends UsageDay {
  keyId: string;
  /** Redis's time of its last use, in milliseconds since the epoch; 0 for none. */
  usedAtMs: number;
}

/** Usage of each key by day; one HASH per key. */
export class Usage {
  #redis: Redis;

  constructor(redis: Redis) {
    this.#redis = redis;
    redis.defineCommand('addUsage', { lua });
  }

  /**
   * Adds what a gateway has counted, in one call of one script. Repeating a report with the same number adds nothing.
   * @param report its number is higher than that of the gateway's last report
   * @param nowMs Redis's time
   * @returns the names of key records that were skipped because their stored usage is malformed
   */
  async add(
    report: { gatewayId: string; number: number },
    counted: readonly KeyUsage[],
    nowMs: number,
  ): Promise<string[]> {
    const keys = counted.flatMap(({ keyId }) => [names.key(keyId), names.usage(keyId)]);
    const skipped = await this.#redis.addUsage(
      1 + keys.length,
      names.usageReport(report.gatewayId),
      ...keys,
      report.number,
      REPORT_MEMORY_MS,
      KEPT_DAYS * DAY_MS,
      dayOf(nowMs - (KEPT_DAYS - 1) * DAY_MS),
      USED_EVERY_MS,
      ...counted.flatMap((day) => [day.date, day.requests, day.texts, day.refused, Math.round(day.usedAtMs)]),
    );
    return skippedSchema.parse(skipped);
  }

  /** Usage of a key in the last 90 days: the days with any usage, oldest first. */
  async read(keyId: string): Promise<UsageDay[]> {
    const stored = await this.#redis.hgetall(names.usage(keyId));
    const dates = [...new Set(Object.keys(stored).map((field) => field.slice(0, 10)))].sort();
    return dates.map((date) => {
      const count = (kind: keyof Omit<UsageDay, 'date'>) => Number(stored[`${date}:${kind}`] ?? 0);
      return { date, requests: count('requests'), texts: count('texts'), refused: count('refused') };
    });
  }
}
