import { setImmediate } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { connectRedis, type InteractiveMessage, PREFIX, RedisClock, whenReady } from '@sluice/shared';
import { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { Rig, silentLog, until } from '../../../../tests/harness.js';
import { Dispatcher } from './dispatcher.js';
import { ReplyReader } from './replyReader.js';

let rig: Rig;
let redis: Redis;
let clock: RedisClock;
let replies: ReplyReader;
let queue: Queue<InteractiveMessage>;
const disconnect = new AbortController();
beforeAll(async () => {
  rig = await Rig.start();
  redis = connectRedis(rig.redisUrl, 'request', silentLog);
  await whenReady(redis);
  clock = new RedisClock(redis, silentLog);
  replies = new ReplyReader(connectRedis(rig.redisUrl, 'blocking', silentLog), 'test', silentLog);
  queue = new Queue('items', { connection: redis, prefix: PREFIX });
  await until('Redis answers', () => !clock.away);
});
afterEach(() => queue.drain());
afterAll(async () => {
  disconnect.abort();
  clock.close();
  await replies.close();
  await queue.close();
  redis.disconnect();
  await rig.close();
});

/** A dispatcher to workers with four model processes, which have `ahead` rows of other gateways. */
function dispatcherWith(ahead: number, batching = true) {
  const dispatcher: Dispatcher = new Dispatcher({
    redis,
    modelId: 'model',
    lane: 'interactive',
    queue,
    replies,
    clock,
    gatewayId: 'test',
    capacity: () => ({ processes: 4, rowsPerSecond: 100, batching }),
    unansweredRows: () => ahead + dispatcher.unansweredRows,
    log: silentLog,
  });
  return (count: number) => {
    for (let i = 0; i < count; i++) {
      const submission = { requestId: 'test', input: i, parameters: {}, rows: 1, timeoutMs: 60_000 };
      // Nobody answers; the tests look at the queue.
      dispatcher.submit({ ...submission, signal: disconnect.signal }).catch(() => {});
    }
  };
}

/** How many items each message has, once all are in the queue. */
async function sizes(items: number): Promise<number[]> {
  let found: number[] = [];
  await until('all items are in messages', async () => {
    found = (await queue.getWaiting()).map(({ data }) => data.items.length);
    return found.reduce((sum, size) => sum + size, 0) === items;
  });
  return found.sort((a, b) => b - a);
}

test('while the workers have little to do, the inputs of a request are divided over their processes', async () => {
  dispatcherWith(0)(16);
  expect(await sizes(16)).toEqual([2, 2, 2, 2, 2, 2, 2, 2]);
});

test('while the workers are busy, items that arrive within milliseconds share messages', async () => {
  const submit = dispatcherWith(100);
  submit(3);
  await setImmediate();
  submit(14);
  expect(await sizes(17)).toEqual([16, 1]);
});

test('items of a model that is not batched have a message each', async () => {
  dispatcherWith(100, false)(3);
  expect(await sizes(3)).toEqual([1, 1, 1]);
});
