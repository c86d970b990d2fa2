import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { connectRedis, Keyring, makeKey, RedisClock, Usage } from '@sluice/shared';
import { Rig, silentLog, until } from '../../../../tests/harness.js';
import { UsageCounter } from './usageCounter.js';

let rig: Rig;
beforeAll(async () => {
  rig = await Rig.start();
});
afterAll(() => rig.close());

test('a drain reports usage that Redis refused before', async () => {
  const { id } = await new Keyring(rig.redis).register(makeKey(), { name: 'test' }, Date.now());
  const redis = connectRedis(rig.redisUrl, 'request', silentLog);
  const clock = new RedisClock(redis, silentLog);
  await until('Redis answers', () => !clock.away);
  const usage = new Usage(redis);
  const counter = new UsageCounter(usage, clock, 'gateway', silentLog);
  await rig.redis.config('SET', 'maxmemory', '1');
  counter.request(id, 1);
  await counter.flush();
  counter.request(id, 1);
  await counter.flush();
  counter.refused(id);
  await rig.redis.config('SET', 'maxmemory', '0');
  await counter.close();
  expect(await usage.read(id)).toMatchObject([{ requests: 2, texts: 2, refused: 1 }]);
  clock.close();
  redis.disconnect();
});
