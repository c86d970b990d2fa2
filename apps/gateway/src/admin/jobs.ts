import { type AdminJob, type AdminRoutes, cursorOf, offsetOf } from '@sluice/contract';
import {
  isFinished,
  type JobRecord,
  type Keyring,
  type Ledger,
  type Log,
  type RedisClock,
} from '@sluice/shared';
import { jobBody } from '../api/native/jobBody.js';
import { plainAddress } from '../http/address.js';
import type { HandlersOf } from '../http/family.js';
import { fromRedis, Problem } from '../http/problem.js';
import { endJob } from '../jobs/ending.js';
import type { Catalog } from '../models/catalog.js';

interface Services {
  ledger: Ledger;
  keyring: Keyring;
  catalog: Catalog;
  clock: RedisClock;
  log: Log;
}

/** A rate over a shorter time says nothing, in milliseconds. */
const LEAST_RUN_MS = 1_000;

/** Handlers of the admin routes about jobs. They show no texts. */
export function adminJobRoutes(
  services: Services,
): Pick<HandlersOf<AdminRoutes>, 'jobs' | 'job' | 'cancelJob'> {
  const { ledger, keyring, clock, log } = services;

  async function read(id: string): Promise<JobRecord> {
    const job = await fromRedis(ledger.read(id));
    if (job === undefined) throw new Problem('not_found', { detail: 'Not Found: no job has this id' });
    return job;
  }

  async function nameOf(keyId: string): Promise<string | null> {
    return (await fromRedis(keyring.read(keyId)))?.name ?? null;
  }

  async function bodyOf(job: JobRecord): Promise<AdminJob> {
    return body(job, await nameOf(job.keyId));
  }

  function body(job: JobRecord, keyName: string | null): AdminJob {
    const nowMs = clock.now();
    if (clock.away || nowMs === undefined) throw new Problem('unavailable');
    const { results_url: _, ...shown } = jobBody(job);
    const endMs = job.finishedAtMs ?? nowMs;
    const runMs = job.startedAtMs === undefined ? 0 : endMs - job.startedAtMs;
    return {
      ...shown,
      key_id: job.keyId,
      key_name: keyName,
      age_seconds: Math.max(0, (nowMs - job.createdAtMs) / 1000),
      items_per_second: runMs < LEAST_RUN_MS ? null : (1000 * (job.completed + job.failed)) / runMs,
    };
  }

  return {
    async jobs({ query: { limit, cursor, key, status } }) {
      const page = { keyId: key, status, offset: offsetOf(cursor), count: limit };
      const { records, next } = await fromRedis(ledger.lists.ofAll(page));
      const keyIds = [...new Set(records.map(({ keyId }) => keyId))];
      const names = new Map(await Promise.all(keyIds.map(async (id) => [id, await nameOf(id)] as const)));
      return {
        jobs: records.map((job) => body(job, names.get(job.keyId) ?? null)),
        next_cursor: next === undefined ? null : cursorOf(next),
      };
    },

    async job({ params }) {
      return bodyOf(await read(params.id));
    },

    async cancelJob({ params, request: { ip } }) {
      const job = await read(params.id);
      if (isFinished(job.status)) return bodyOf(job);
      await endJob(services, job, 'canceled', 'Canceled by the operator');
      log.info(
        { job_id: job.id, key_id: job.keyId, by: 'admin token', address: plainAddress(ip) },
        'Job canceled by the operator',
      );
      return bodyOf(await read(job.id));
    },
  };
}
