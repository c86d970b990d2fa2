import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { REPLY_FIELD, repliesSchema } from '@sluice/shared';
import * as z from 'zod';
import { Rig, request, root, until } from './harness.js';
import { savedSchema, writeAll } from './upgrade/snapshot.js';

const recordingSchema = z.object({
  version: z.string(),
  recordedAtMs: z.number(),
  key: z.string(),
  jobs: z.object({ completed: z.string(), queued: z.string(), canceled: z.string() }),
  results: z.array(z.unknown()),
  keys: z.array(savedSchema),
});

const folder = join(root, 'tests/upgrade');
const recordings = readdirSync(folder)
  .filter((file) => file.endsWith('.json'))
  .map((file) => recordingSchema.parse(JSON.parse(readFileSync(join(folder, file), 'utf8'))));

test.each(recordings.map((recording) => [recording.version, recording] as const))(
  'the current version handles messages, jobs and API keys that version %s left in Redis',
  async (_version, { recordedAtMs, key, jobs, results, keys }) => {
    const rig = await Rig.start();
    try {
      await writeAll(rig.redis, keys, recordedAtMs);
      const { url } = await rig.gateway();
      const headers = { 'X-API-Key': key };
      const job = async (id: string) => (await request(`${url}/jobs/${id}`, { headers })).body;
      const stored = async () => (await request(`${url}/jobs/${jobs.completed}/results`, { headers })).body;
      expect((await stored()).results).toEqual(results);
      expect(await job(jobs.canceled)).toMatchObject({ status: 'canceled', total: 5 });
      expect(await job(jobs.queued)).toMatchObject({ status: 'queued', total: 100 });

      await rig.worker();
      await until('the job has ended', async () => (await job(jobs.queued)).status === 'completed');
      expect(await job(jobs.queued)).toMatchObject({ completed: 100, failed: 0 });
      expect((await request(`${url}/me`, { headers })).body.bulk.queued).toBe(0);
      // The gateway that sent the request would read this stream.
      const stream = keys.find(({ name }) => name.includes(':replies:'))?.name ?? '';
      const replies = async () =>
        (await rig.redis.xrangeBuffer(stream, '-', '+')).filter(
          ([, [field]]) => field?.toString() === REPLY_FIELD,
        );
      await until('the request is answered', async () => (await replies()).length === 1);
      const [entry] = await replies();
      const { data } = repliesSchema.safeParse(entry?.[1][1]);
      expect(data?.replies.map(({ outcome }) => outcome.kind)).toEqual(['answer']);
    } finally {
      await rig.close();
    }
  },
);
