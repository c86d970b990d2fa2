import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Rig } from '../../../../tests/harness.js';
import { isLive, Keyring, keyIdOf, makeKey } from './keyring.js';

let rig: Rig;
let keyring: Keyring;
beforeAll(async () => {
  rig = await Rig.start();
  keyring = new Keyring(rig.redis);
});
afterAll(() => rig.close());

const NOW = Date.UTC(2026, 0, 1);

test('a made key is found by itself and by nothing else', async () => {
  const key = makeKey();
  expect(key).toMatch(/^sk_[0-9a-f]{12}_[A-Za-z0-9_-]{32}$/);
  const record = await keyring.register(key, { name: 'one' }, NOW);
  expect(record).toMatchObject({ id: keyIdOf(key), name: 'one', scopes: ['predict', 'batch'], limits: [] });
  expect(await keyring.find(key, NOW)).toEqual(record);
  const wrongSecret = `${key.slice(0, -1)}${key.endsWith('A') ? 'B' : 'A'}`;
  expect(await keyring.find(wrongSecret, NOW)).toBeUndefined();
  expect(await keyring.find(makeKey(), NOW)).toBeUndefined();
});

test('a supplied key has an id of its hash', async () => {
  const record = await keyring.register('your-secret-key', { name: 'two' }, NOW);
  // echo -n your-secret-key | sha256sum
  expect(record.id).toBe('048af2438891');
  expect(await keyring.find('your-secret-key', NOW)).toEqual(record);
});

test('Redis holds no secret', async () => {
  const key = makeKey();
  await keyring.register(key, { name: 'three' }, NOW);
  const stored = await rig.redis.hgetall(`{sluice}:key:${keyIdOf(key)}`);
  expect(JSON.stringify(stored)).not.toContain(key.slice(-32));
});

test('registering a key twice changes nothing, also at the same time', async () => {
  const key = makeKey();
  const options = { name: 'four', limits: [{ limit: 5, windowSeconds: 60 }], scopes: ['predict' as const] };
  const records = await Promise.all([1, 2, 3].map(() => keyring.register(key, options, NOW)));
  await keyring.register(key, { name: 'another' }, NOW + 1);
  expect(new Set(records.map((record) => JSON.stringify(record))).size).toBe(1);
  expect(await keyring.find(key, NOW)).toEqual(records[0]);
  expect((await keyring.list()).filter(({ id }) => id === keyIdOf(key))).toHaveLength(1);
});

test('a revoked key stays revoked, also when it is registered again', async () => {
  const key = makeKey();
  const record = await keyring.register(key, { name: 'five' }, NOW);
  expect(isLive(record, NOW)).toBe(true);
  await keyring.revoke(record.id, NOW + 1);
  const again = await keyring.register(key, { name: 'five' }, NOW + 2);
  expect([isLive(again, NOW + 2), again.revokedAtMs]).toEqual([false, NOW + 1]);
  expect(await keyring.revoke('nobody', NOW)).toBeUndefined();
});

test('a key lives until it expires', async () => {
  const record = await keyring.register(makeKey(), { name: 'six', expiresAtMs: NOW + 1_000 }, NOW);
  expect([isLive(record, NOW + 999), isLive(record, NOW + 1_000)]).toEqual([true, false]);
});
