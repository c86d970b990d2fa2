import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Rig } from '../../../../tests/harness.js';
import { keyIdOf } from '../keys/keyring.js';
import { names } from '../redis/names.js';
import { Ledger } from './ledger.js';

let rig: Rig;
let ledger: Ledger;
let keyId: string;
beforeAll(async () => {
  rig = await Rig.start();
  ledger = new Ledger(rig.redis, { resultTtlMs: 60_000, jobTimeoutMs: 60_000 });
  keyId = keyIdOf(await rig.key());
});
afterAll(() => rig.close());

/** Uploads a text with an idempotency key, and accepts it as a job. */
async function accept(idempotencyKey: string, fingerprint = 'same') {
  const stage = ledger.stage(randomUUID());
  await stage.add({ text: 'fine' }, { rows: 1, resultBytes: 50 });
  await stage.flush();
  const acceptance = await ledger.accept(stage, {
    keyId,
    modelId: 'model',
    revision: 'main',
    specHash: 'hash',
    parameters: {},
    idempotencyKey: names.idempotency(keyId, idempotencyKey),
    fingerprint,
    maxInFlight: 8,
    notAfterMs: Date.now() + 60_000,
  });
  return { acceptance, job: { id: stage.jobId, keyId, modelId: 'model' } };
}
const discard = (job: { id: string; keyId: string; modelId: string }) =>
  ledger.end(job, 'canceled', '', 8, { unlessReplayed: true });

test('a job whose confirmation was lost is discarded, unless a replay has been answered with it', async () => {
  const lost = await accept('lost');
  expect(lost.acceptance.kind).toBe('accepted');
  expect((await discard(lost.job)).ended).toBe(true);

  const first = await accept('replayed');
  expect((await accept('replayed')).acceptance).toEqual({ kind: 'known', jobId: first.job.id });
  expect((await discard(first.job)).ended).toBe(false);
  expect((await ledger.read(first.job.id))?.status).toBe('queued');
  // Its caller can cancel it, of course.
  expect((await ledger.end(first.job, 'canceled', '', 8)).ended).toBe(true);
});

test('an idempotency entry whose job was discarded counts as absent; another body is a mismatch', async () => {
  const first = await accept('again');
  expect((await accept('again', 'other')).acceptance.kind).toBe('mismatch');
  await discard(first.job);
  expect((await accept('again', 'other')).acceptance.kind).toBe('accepted');
});
