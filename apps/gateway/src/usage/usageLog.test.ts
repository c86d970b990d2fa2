import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { connectRedis, Keyring, makeKey, RedisClock, Usage } from '@sluice/shared';
import { Rig, silentLog, until } from '../../../../tests/harness.js';
import { UsageLog } from './usageLog.js';

let rig: Rig;
beforeAll(async () => {
  rig = await Rig.start();
});
afterAll(() => rig.close());

test('what was counted while Redis refused it is brought by a drain that comes right after', async () => {
  const { id } = await new Keyring(rig.redis).register(makeKey(), { name: 'test' }, Date.now());
  const redis = connectRedis(rig.redisUrl, 'request', silentLog);
  const clock = new RedisClock(redis);
  await until('Redis answers', () => !clock.away);
  const usage = new Usage(redis);
  const log = new UsageLog(usage, clock, 'gateway', silentLog);
  await rig.redis.config('SET', 'maxmemory', '1');
  log.request(id, 1);
  await log.flush();
  log.request(id, 1);
  await log.flush();
  log.refused(id);
  await rig.redis.config('SET', 'maxmemory', '0');
  await log.close();
  expect(await usage.read(id)).toMatchObject([{ requests: 2, texts: 2, refused: 1 }]);
  clock.close();
  redis.disconnect();
});
