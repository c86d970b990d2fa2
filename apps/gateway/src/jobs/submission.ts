import { createHash, randomUUID } from 'node:crypto';
import {
  COMMAND_TIMEOUT_MS,
  enqueueChunks,
  inputsOf,
  type JobWebhook,
  type KeyRecord,
  type Ledger,
  type Log,
  names,
  presentTrace,
  type RedisClock,
  type Stage,
} from '@sluice/shared';
import type { RedisMemory } from '../admission/redisMemory.js';
import { fromRedis, Problem } from '../http/problem.js';
import type { Catalog, CatalogEntry } from '../models/catalog.js';
import { parseInput } from '../models/inputs.js';
import { endJob } from './ending.js';
import type { Upload } from './upload.js';

interface Services {
  ledger: Ledger;
  catalog: Catalog;
  clock: RedisClock;
  memory: RedisMemory;
  /** Maximum number of items of a job. */
  maxItems: number;
  /** Maximum number of rows of an item. */
  maxRows: number;
  maxTextChars: number;
  log: Log;
}

/** A job to be submitted. */
export interface Submission {
  key: KeyRecord;
  model: CatalogEntry;
  /** Of every item, parsed by the model's task. */
  parameters: unknown;
  upload: Upload;
  /** The caller's `Idempotency-Key`. */
  idempotencyKey: string | undefined;
  /** What the API family keeps with the job. */
  details?: unknown;
  /** The file that it is made from, which is kept for some time after the job has ended. */
  file?: { record: string; ttlMs: number };
  webhook?: JobWebhook;
  /** What else distinguishes it from a job with the same `Idempotency-Key`. */
  fingerprinted?: unknown;
  /** Aborted when the client disconnects, or with a Problem when its request is answered before its end. */
  signal: AbortSignal;
}

/** A job that was accepted, now or by an earlier request with the same `Idempotency-Key`. */
export interface Submitted {
  jobId: string;
  status: 'queued' | 'running' | 'completed';
  total: number;
  /** Whether this request created it. */
  created: boolean;
}

/** After this many seconds a caller whose allowance is used up may retry. */
const ALLOWANCE_RETRY_SECONDS = '10';

/**
 * Creates the function that submits jobs. An upload is staged as it arrives. It becomes a job as a whole, or nothing of
 * it remains.
 */
export function createSubmitJob({
  ledger,
  catalog,
  clock,
  memory,
  maxItems,
  maxRows,
  maxTextChars,
  log,
}: Services) {
  /** Reads a whole upload and stages it; resolves to the fingerprint of its body. */
  async function receive(
    { upload, key, model, parameters, fingerprinted }: Submission,
    stage: Stage,
  ): Promise<string> {
    const hash = createHash('sha256');
    hash.update(`${upload.type}\n${model.spec.id}\n${JSON.stringify([parameters, fingerprinted])}\n`);
    const { task } = model;
    const facts = model.facts();
    let pieces = 0;
    for await (const { item, refuse } of upload.items) {
      const max = Math.min(maxItems, key.bulkLimit);
      const given = inputsOf(item);
      if (stage.inputs + given.length > max) throw tooManyItems(max);
      const own = 'inputs' in item ? task.parameters.parse(item.parameters) : parameters;
      let rows = 0;
      let resultBytes = 0;
      for (const value of given) {
        const parsed = parseInput(task, value, maxTextChars);
        if ('refusal' in parsed) throw refuse(parsed.refusal.detail, parsed.refusal.path);
        if (task.outputNumbers && task.outputNumbers(parsed.input, own, facts) > 0)
          throw refuse('Jobs have no "pooling": "none". Send requests instead', []);
        rows += task.rows(parsed.input, own).length;
        resultBytes += task.resultBytes(parsed.input, own, facts);
      }
      if (rows > maxRows)
        throw refuse(`The input needs ${rows} rows of the model; the maximum is ${maxRows}`, []);
      hash.update(`${JSON.stringify(item)}\n`);
      await fromRedis(stage.add(item, { rows, resultBytes }));
      if (stage.pieces === pieces) continue;
      pieces = stage.pieces;
      await memory.check(stage.resultBytes);
    }
    if (stage.items === 0) {
      throw new Problem('validation_failed', { errors: [{ pointer: '', detail: 'The job is empty' }] });
    }
    await fromRedis(stage.flush());
    await memory.check(stage.resultBytes);
    return hash.digest('hex');
  }

  /** Turns a complete stage into a job, or finds the job that its idempotency entry names. */
  async function accept(
    { key, model, parameters, idempotencyKey, details, file, webhook }: Submission,
    stage: Stage,
    fingerprint: string,
  ): Promise<Submitted> {
    const nowMs = clock.now();
    if (clock.away || nowMs === undefined) throw new Problem('unavailable');
    const acceptance = await fromRedis(
      ledger.accept(stage, {
        keyId: key.id,
        modelId: model.spec.id,
        // While no live worker has reported the commit, the configured revision.
        revision: model.reports()[0]?.revision ?? model.spec.revision,
        specHash: model.spec.hash,
        parameters,
        details,
        ...(file ? { file } : {}),
        ...(webhook ? { webhook } : {}),
        trace: presentTrace(),
        idempotencyKey:
          idempotencyKey === undefined ? undefined : names.idempotency(key.id, sha256(idempotencyKey)),
        fingerprint,
        maxInFlight: catalog.maxChunksInFlight(model.spec.id),
        notAfterMs: nowMs + COMMAND_TIMEOUT_MS,
      }),
    );
    switch (acceptance.kind) {
      case 'accepted':
        // The job is accepted. Chunks that do not reach the queue now are added by the janitor.
        enqueueChunks(model.bulkQueue, acceptance.handedOut).catch((err: unknown) => {
          log.debug({ err, job_id: stage.jobId }, 'Could not enqueue the first chunks; the janitor will');
        });
        log.info(
          { job_id: stage.jobId, key_id: key.id, model: model.spec.id, total: stage.items },
          'Job accepted',
        );
        return { jobId: stage.jobId, status: 'queued', total: stage.items, created: true };
      case 'known':
        return replay(acceptance.jobId, stage);
      case 'mismatch':
        throw new Problem('idempotency_mismatch');
      case 'too large':
        throw tooManyItems(acceptance.limit);
      case 'allowance':
        throw new Problem('bulk_allowance_used', { headers: { 'Retry-After': ALLOWANCE_RETRY_SECONDS } });
      case 'revoked':
        throw new Problem('invalid_api_key');
      case 'late':
      case 'missing':
        throw new Problem('unavailable');
    }
  }

  /** Answers with the job of an earlier upload with the same idempotency key and body. */
  async function replay(jobId: string, stage: Stage): Promise<Submitted> {
    stage.discard().catch((err: unknown) => {
      log.debug({ err, job_id: stage.jobId }, 'Could not remove an upload; it will expire');
    });
    const job = await fromRedis(ledger.read(jobId));
    // It has ended since; the same request creates another job now.
    if (job === undefined || job.status === 'failed' || job.status === 'canceled')
      throw new Problem('unavailable');
    return { jobId: job.id, status: job.status, total: job.total, created: false };
  }

  /**
   * Removes everything of a refused upload, also if it was accepted and the confirmation was lost; but not if another
   * request with the same idempotency key has been answered with its job since.
   */
  async function abandon(stage: Stage, key: KeyRecord, model: CatalogEntry): Promise<void> {
    await stage.discard();
    const job = { id: stage.jobId, keyId: key.id, modelId: model.spec.id };
    const { ended } = await endJob({ ledger, catalog, log }, job, 'canceled', '', { unlessReplayed: true });
    if (ended) await ledger.erase(stage.jobId, key.id);
  }

  /**
   * Submits a job.
   * @throws Problem; ClientClosedRequest
   */
  return async function submitJob(submission: Submission): Promise<Submitted> {
    const { key, model, signal } = submission;
    const stage = ledger.stage(randomUUID());
    try {
      const fingerprint = await receive(submission, stage);
      throwIfAnswered(signal);
      const submitted = await accept(submission, stage, fingerprint);
      if (submitted.created) throwIfAnswered(signal);
      return submitted;
    } catch (error) {
      abandon(stage, key, model).catch((err: unknown) => {
        log.debug({ err, job_id: stage.jobId }, 'Could not remove an upload; it will expire');
      });
      throw error;
    }
  };
}

/** A request that has already been answered with a Problem must not create a job. */
function throwIfAnswered({ reason }: AbortSignal): void {
  if (reason instanceof Problem) throw reason;
}

const tooManyItems = (max: number) =>
  new Problem('batch_too_large', { detail: `A job or batch may have at most ${max} inputs. Split it` });

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
