import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { PREFIX } from '@sluice/shared';
import { Queue } from 'bullmq';
import { Rig, silentLog, until } from '../../../../tests/harness.js';
import { QueueReader } from './reader.js';

let rig: Rig;
beforeAll(async () => {
  rig = await Rig.start();
});
afterAll(() => rig.close());

test('the reader takes messages while fewer rows than the maximum are held, whatever the number of messages', async () => {
  const queue = new Queue('reader-test', { connection: rig.redis, prefix: PREFIX });
  const finish: (() => void)[] = [];
  const reader = new QueueReader({
    redis: rig.redis,
    queueName: 'reader-test',
    lockMs: 30_000,
    maxStalled: 1,
    maxRows: () => 8,
    work: (_data, hold) => {
      hold(5);
      return new Promise((resolve) => finish.push(resolve));
    },
    log: silentLog,
  });
  for (let i = 0; i < 4; i++) await queue.add('message', {});
  const active = () => queue.getActiveCount();
  // 5 of 8 rows allow another message; 10 do not.
  await until('two messages are taken', async () => finish.length === 2);
  await until(
    'the queue has settled',
    async () => (await active()) === 2 && (await queue.getWaitingCount()) === 2,
  );
  finish[0]?.();
  await until('the next message is taken', async () => finish.length === 3);
  expect(await active()).toBe(2);
  for (const each of finish) each();
  await until('the last message is taken', async () => finish.length === 4);
  finish[3]?.();
  await reader.close(false);
  expect(await queue.getJobCounts('wait', 'active', 'failed')).toEqual({ wait: 0, active: 0, failed: 0 });
  await queue.close();
});
