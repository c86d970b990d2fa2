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
  await reader.close(60_000);
  expect(await queue.getJobCounts('wait', 'active', 'failed')).toEqual({ wait: 0, active: 0, failed: 0 });
  await queue.close();
});

/** A reader whose messages are done at once. */
const readerOf = (queueName: string, done: () => void = () => {}) =>
  new QueueReader({
    redis: rig.redis,
    queueName,
    lockMs: 30_000,
    maxStalled: 1,
    maxRows: () => 8,
    work: async () => done(),
    log: silentLog,
  });

test('for each message the queue is asked once', async () => {
  const queue = new Queue('marker-test', { connection: rig.redis, prefix: PREFIX });
  let done = 0;
  const reader = readerOf(queue.name, () => done++);
  // BullMQ's script for a fetch has this command.
  const fetches = async () =>
    Number(/cmdstat_rpoplpush:calls=(\d+)/.exec(await rig.redis.info('commandstats'))?.[1] ?? 0);
  const before = await fetches();
  const startMs = performance.now();
  for (let i = 1; i <= 20; i++) {
    await queue.add('message', {});
    await until('it is done', () => done === i);
  }
  await until('it has looked', async () => (await rig.redis.zcard(queue.toKey('marker'))) === 0);
  // One more at the start, and one for each second of waiting.
  const polls = 1 + Math.ceil((performance.now() - startMs) / 1000);
  expect((await fetches()) - before).toBeLessThanOrEqual(20 + polls);
  await reader.close(60_000);
  await queue.close();
});

test('a reader that is closed while Redis is down ends when Redis is back', async () => {
  const reader = readerOf('close-test');
  await until('it waits', async () => /cmd=bzpopmin/.test(String(await rig.redis.client('LIST'))));
  process.kill(rig.redisPid, 'SIGKILL');
  await until('the connection is broken', () => rig.redis.status !== 'ready');
  const closed = reader.close(60_000);
  await rig.restartRedis();
  await closed;
}, 20_000);
