import { createHash, randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import {
  type ChunkJob,
  COMMAND_TIMEOUT_MS,
  enqueueChunks,
  type Item,
  type KeyRecord,
  type Ledger,
  type Log,
  names,
  type RedisClock,
  type Stage,
} from '@sluice/shared';
import type { Queue } from 'bullmq';
import type { Request, Response } from 'express';
import type { Room } from '../admission/room.js';
import { fromRedis, Problem } from '../errors/problem.js';
import type { createReadUpload, Upload } from '../validate/upload.js';
import type { Handlers } from './handlers.js';

interface Services {
  ledger: Ledger;
  queue: Queue<ChunkJob>;
  clock: RedisClock;
  readUpload: ReturnType<typeof createReadUpload>;
  /** Id of the one configured model, and its revision. */
  model: string;
  revision: string;
  room: Room;
  maxBatchTexts: number;
  /** How many chunks of a caller may be out. */
  mostOut: () => number;
  log: Log;
}

/** Seconds after which a caller whose allowance is used up may look again. */
const ALLOWANCE_RETRY_SECONDS = '10';

/** Handler of the route that takes batches: an upload is staged as it arrives and accepted whole, or leaves nothing. */
export function batchRoutes(services: Services): Pick<Handlers, 'analyzeBatch'> {
  const { ledger, queue, clock, readUpload, model, revision, room, maxBatchTexts, mostOut, log } = services;

  /** Takes all of an upload in; resolves to the fingerprint of its body. */
  async function receive(upload: Upload, named: string, record: KeyRecord, stage: Stage | undefined) {
    const hash = createHash('sha256').update(`${upload.type}\n${named}\n`);
    let texts = 0;
    let pieces = 0;
    for await (const item of upload.items) {
      if (++texts > maxBatchTexts || texts > record.bulkLimit) {
        const most = Math.min(maxBatchTexts, record.bulkLimit);
        throw new Problem('batch_too_large', { detail: `A batch of this key has at most ${most} texts` });
      }
      hash.update(`${JSON.stringify([item.text, item.id ?? null] satisfies [string, Item['id'] | null])}\n`);
      if (stage === undefined) continue;
      await fromRedis(stage.add(item));
      if (stage.pieces === pieces) continue;
      pieces = stage.pieces;
      await room.ensure(texts);
    }
    if (texts === 0) {
      throw new Problem('validation_failed', { errors: [{ pointer: '', detail: 'The batch has no texts' }] });
    }
    if (stage) {
      await fromRedis(stage.flush());
      await room.ensure(texts);
    }
    return hash.digest('hex');
  }

  /** Accepts what is staged, once it is all there. */
  async function accept(stage: Stage, keyId: string, fingerprint: string): Promise<void> {
    const nowMs = clock.now();
    if (clock.away || nowMs === undefined) throw new Problem('unavailable');
    const notAfterMs = nowMs + COMMAND_TIMEOUT_MS;
    const batch = { keyId, model, revision, fingerprint, mostOut: mostOut(), notAfterMs };
    const acceptance = await fromRedis(ledger.accept(stage, batch));
    switch (acceptance.kind) {
      case 'accepted':
        // What does not get into the queue now is put there by the sweep: the batch stands.
        enqueueChunks(queue, acceptance.marked).catch((err: unknown) => {
          log.debug({ err, job_id: stage.jobId }, 'The first chunks are left to the sweep');
        });
        return;
      case 'too large':
        throw new Problem('batch_too_large', {
          detail: `A batch of this key has at most ${acceptance.limit} texts`,
        });
      case 'allowance':
        throw new Problem('bulk_allowance_used', { headers: { 'Retry-After': ALLOWANCE_RETRY_SECONDS } });
      case 'revoked':
        throw new Problem('invalid_api_key');
      case 'replaced':
        throw new Problem('idempotency_arriving');
      case 'late':
      case 'missing':
        throw new Problem('unavailable');
    }
  }

  /** Leaves nothing of an upload that is refused, also when it was accepted and the word of it was lost. */
  async function abandon(stage: Stage, keyId: string): Promise<void> {
    await stage.discard();
    const { ended } = await ledger.end({ id: stage.jobId, keyId, model }, 'canceled', '', mostOut());
    if (ended) await ledger.erase(stage.jobId, keyId);
  }

  function accepted(
    response: Response,
    jobId: string,
    status: 'queued' | 'running' | 'completed',
    total: number,
  ) {
    const url = `/jobs/${jobId}`;
    response.set('Location', url);
    return { message: 'Processing started' as const, job_id: jobId, status, total, status_url: url };
  }

  return {
    async analyzeBatch({ caller: { record }, query, request, response }) {
      await room.ensure(0);
      const idempotency = idempotencyKey(request, record.id);
      const upload = await readUpload(request, response);
      const named = upload.model ?? query.model ?? model;
      const jobId = randomUUID();
      const state = idempotency
        ? await fromRedis(ledger.claim(idempotency, jobId))
        : { kind: 'mine' as const };
      if (state.kind === 'arriving') throw new Problem('idempotency_arriving');
      if (state.kind === 'known') {
        const fingerprint = await receive(upload, named, record, undefined);
        const job = await fromRedis(ledger.read(state.jobId));
        if (fingerprint !== state.fingerprint) throw new Problem('idempotency_mismatch');
        if (job === undefined || job.status === 'failed' || job.status === 'canceled') {
          throw new Problem('idempotency_arriving');
        }
        return accepted(response, job.id, job.status, job.total);
      }
      const stage = ledger.stage(jobId, idempotency);
      try {
        await accept(stage, record.id, await receive(upload, named, record, stage));
      } catch (error) {
        abandon(stage, record.id).catch((err: unknown) => {
          log.debug({ err, job_id: jobId }, 'An upload is left to its time to live');
        });
        throw error;
      }
      response.locals.texts = stage.texts;
      return accepted(response, jobId, 'queued', stage.texts);
    },
  };
}

/** The Redis key of a request's `Idempotency-Key`; undefined when it has none. */
function idempotencyKey(request: Request & IncomingMessage, keyId: string): string | undefined {
  const given = request.get('Idempotency-Key')?.trim();
  if (given === undefined) return undefined;
  if (given === '' || given.length > 255) {
    throw new Problem('validation_failed', {
      detail: 'An Idempotency-Key has 1 to 255 characters',
    });
  }
  return names.idempotency(keyId, createHash('sha256').update(given).digest('hex'));
}
