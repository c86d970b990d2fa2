import { readFileSync } from 'node:fs';
import type { Redis, Result } from 'ioredis';
import * as z from 'zod';
import { names } from '../redis/names.js';
import { isFinished, type JobRecord, type JobStatus, jobRecordOf } from './records.js';

// The script stays in src/: two folders up from src/jobs and from dist/jobs alike.
const lua = readFileSync(new URL('../../src/jobs/list.lua', import.meta.url), 'utf8');

declare module 'ioredis' {
  interface RedisCommander<Context> {
    listJobs(keyCount: number, ...keysAndArgs: (string | number)[]): Result<unknown, Context>;
  }
}

const recordFields = z.record(z.string(), z.string());
const listReply = z.tuple([z.number()], z.array(z.string()));

/** Maximum number of records that are read for a page of all jobs, and in one call to Redis. */
const MAX_SCANNED = 10_000;
const SCANNED_AT_ONCE = 500;
const LEAST_SCANNED = 50;

/** The jobs of a key, and of all keys, in pages. */
export class JobLists {
  #redis: Redis;

  constructor(redis: Redis) {
    this.#redis = redis;
    redis.defineCommand('listJobs', { lua });
  }

  /**
   * A caller's jobs, newest first.
   * @param offset how many to skip
   * @returns the records, and whether more follow
   */
  async ofKey(
    keyId: string,
    offset: number,
    count: number,
  ): Promise<{ records: JobRecord[]; more: boolean }> {
    const reply = await this.#redis.listJobs(1, names.jobs(keyId), offset, count, names.job(''));
    const [more, ...pages] = listReply.parse(reply);
    return { records: pages.flatMap((fields) => jobRecordOf(objectOf(fields)) ?? []), more: more === 1 };
  }

  /**
   * Jobs of all keys: unfinished ones, newest first, then ended ones, most recently ended first. Of one key: newest first.
   * @param offset how many to skip
   * @returns the records, and the offset of the next page if there may be more. A page may have fewer than `count` records, also
   *   if more follow, because at most {@link MAX_SCANNED} are read
   */
  async ofAll({
    keyId,
    status,
    offset,
    count,
  }: {
    keyId: string | undefined;
    status: JobStatus | undefined;
    offset: number;
    count: number;
  }): Promise<{ records: JobRecord[]; next: number | undefined }> {
    const records: JobRecord[] = [];
    let next = offset;
    while (records.length < count && next - offset < MAX_SCANNED) {
      const wanted = Math.max(status === undefined ? count - records.length : SCANNED_AT_ONCE, LEAST_SCANNED);
      const ids = await this.#ids(keyId, status, next, wanted);
      const reads = this.#redis.pipeline();
      for (const id of ids) reads.hgetall(names.job(id));
      const replies = (await reads.exec()) ?? [];
      for (const [error, stored] of replies) {
        if (error) throw error;
        next++;
        const record = jobRecordOf(recordFields.parse(stored));
        if (record && (status === undefined || record.status === status)) records.push(record);
        if (records.length === count) break;
      }
      if (ids.length < wanted) return { records, next: records.length === count ? next : undefined };
    }
    return { records, next };
  }

  /** Ids of jobs in the order of {@link ofAll}. A list whose jobs cannot have the status is skipped. */
  async #ids(
    keyId: string | undefined,
    status: JobStatus | undefined,
    offset: number,
    count: number,
  ): Promise<string[]> {
    const page = (name: string, from: number, most: number) =>
      this.#redis.zrevrange(name, from, from + most - 1);
    if (keyId !== undefined) return page(names.jobs(keyId), offset, count);
    const idsOf = (members: readonly string[]) => members.map((member) => member.split(' ').at(-1) ?? '');
    if (status !== undefined)
      return isFinished(status)
        ? idsOf(await page(names.finished, offset, count))
        : page(names.unfinished, offset, count);
    const unfinished = await page(names.unfinished, offset, count);
    if (unfinished.length === count) return unfinished;
    const before = await this.#redis.zcard(names.unfinished);
    const from = Math.max(0, offset - before);
    return [...unfinished, ...idsOf(await page(names.finished, from, count - unfinished.length))];
  }
}

/** Fields and values as an object. */
function objectOf(fieldsAndValues: readonly string[]): Record<string, string> {
  const object: Record<string, string> = {};
  for (let i = 0; i < fieldsAndValues.length; i += 2)
    object[fieldsAndValues[i] ?? ''] = fieldsAndValues[i + 1] ?? '';
  return object;
}
