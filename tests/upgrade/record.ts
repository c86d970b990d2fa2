// Saves messages and job records of the current version for upgrade.test.ts: npx tsx tests/upgrade/record.ts
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { keyIdOf, version } from '@sluice/shared';
import { post, Rig, request, root, until } from '../harness.js';
import { readAll } from './snapshot.js';

const rig = await Rig.start();
try {
  const { url } = await rig.gateway();
  const key = 'a-key-for-the-recording';
  const headers = { 'X-API-Key': key, 'Content-Type': 'application/json' };
  const { Keyring } = await import('@sluice/shared');
  await new Keyring(rig.redis).register(key, { name: 'recorded' }, Date.now());
  const submit = async (texts: string[]) => (await post(`${url}/analyze_batch`, key, { texts })).body.job_id;
  const texts = (count: number) => Array.from({ length: count }, (_, i) => `text ${i}`);

  const worker = await rig.worker();
  const completed = await submit(texts(40));
  const job = async (id: string) => (await request(`${url}/jobs/${id}`, { headers })).body;
  await until('the job has ended', async () => (await job(completed)).status === 'completed');
  const { body: results } = await request(`${url}/jobs/${completed}/results`, { headers });
  // The worker has no time to take what follows.
  worker.child.kill('SIGSTOP');
  const request1 = post(`${url}/predict`, key, { text: 'a fine day' }).catch(() => {});
  await until(
    'its message is in the queue',
    async () => (await rig.redis.keys('*-interactive:wait')).length === 1,
  );
  const queued = await submit(texts(100));
  const canceled = await submit(texts(5));
  await request(`${url}/jobs/${canceled}/cancel`, { method: 'POST', headers });
  const recordedAtMs = Date.now();
  const keys = await readAll(
    rig.redis,
    (name) => !/:(worker|workers|unanswered|sweep|probe|tokenizer)/.test(name),
  );
  const recording = {
    version,
    recordedAtMs,
    key,
    keyId: keyIdOf(key),
    jobs: { completed, queued, canceled },
    results: results.results,
    keys,
  };
  writeFileSync(join(root, `tests/upgrade/${version}.json`), `${JSON.stringify(recording, null, 1)}\n`);
  await rig.stopApps();
  await request1;
} finally {
  await rig.close();
}
