import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Rig } from '../../../../tests/harness.js';
import { isLive, KeyNotLive, Keyring, KeyTaken, keyIdOf, makeKey } from './keyring.js';

let rig: Rig;
let keyring: Keyring;
beforeAll(async () => {
  rig = await Rig.start();
  keyring = new Keyring(rig.redis);
});
afterAll(() => rig.close());

const NOW = Date.UTC(2026, 0, 1);

test('a generated key is found only with its own secret', async () => {
  const key = makeKey();
  expect(key).toMatch(/^sk_[0-9a-f]{12}_[A-Za-z0-9_-]{32}$/);
  const record = await keyring.register(key, { name: 'one' }, NOW);
  expect(record).toMatchObject({ id: keyIdOf(key), name: 'one', scopes: ['predict', 'batch'], limits: [] });
  expect(await keyring.find(key, NOW)).toEqual(record);
  const wrongSecret = `${key.slice(0, -1)}${key.endsWith('A') ? 'B' : 'A'}`;
  expect(await keyring.find(wrongSecret, NOW)).toBeUndefined();
  expect(await keyring.find(makeKey(), NOW)).toBeUndefined();
});

test('the id of a supplied key is derived from its hash', async () => {
  const record = await keyring.register('your-secret-key', { name: 'two' }, NOW);
  // echo -n your-secret-key | sha256sum
  expect(record.id).toBe('048af2438891');
  expect(await keyring.find('your-secret-key', NOW)).toEqual(record);
});

test('no secret is stored in Redis', async () => {
  const key = makeKey();
  await keyring.register(key, { name: 'three' }, NOW);
  const stored = await rig.redis.hgetall(`{sluice}:key:${keyIdOf(key)}`);
  expect(JSON.stringify(stored)).not.toContain(key.slice(-32));
});

test('registering a key several times changes nothing, also at the same time', async () => {
  const key = makeKey();
  const options = { name: 'four', limits: [{ limit: 5, windowSeconds: 60 }], scopes: ['predict' as const] };
  const records = await Promise.all([1, 2, 3].map(() => keyring.register(key, options, NOW)));
  await keyring.register(key, { name: 'another' }, NOW + 1);
  expect(new Set(records.map((record) => JSON.stringify(record))).size).toBe(1);
  expect(await keyring.find(key, NOW)).toEqual(records[0]);
  expect((await keyring.list()).records.filter(({ id }) => id === keyIdOf(key))).toHaveLength(1);
});

test('a revoked key stays revoked, even if it is registered again', async () => {
  const key = makeKey();
  const record = await keyring.register(key, { name: 'five' }, NOW);
  expect(isLive(record, NOW)).toBe(true);
  await keyring.revoke(record.id, NOW + 1);
  const again = await keyring.register(key, { name: 'five' }, NOW + 2);
  expect([isLive(again, NOW + 2), again.revokedAtMs]).toEqual([false, NOW + 1]);
  expect(await keyring.revoke('nobody', NOW)).toBeUndefined();
});

test('a key is valid until it expires', async () => {
  const record = await keyring.register(makeKey(), { name: 'six', expiresAtMs: NOW + 1_000 }, NOW);
  expect([isLive(record, NOW + 999), isLive(record, NOW + 1_000)]).toEqual([true, false]);
});

test('after simultaneous rotations one new secret is valid, and the grace period applies to one earlier secret', async () => {
  const first = makeKey();
  const { id } = await keyring.register(first, { name: 'seven' }, NOW);
  const rotated = await Promise.all([1, 2, 3].map(() => keyring.rotate(id, 60_000, NOW)));
  const keys = rotated.map((each) => each?.key ?? '');
  const valid = [];
  for (const key of [first, ...keys]) if (await keyring.find(key, NOW)) valid.push(key);
  expect(valid).toHaveLength(2);
  const later = [];
  for (const key of valid) if (await keyring.find(key, NOW + 60_000)) later.push(key);
  expect(later).toHaveLength(1);
  expect(keys).toContain(later[0]);
});

test('a supplied key can be rotated, and cannot be registered again afterwards', async () => {
  const { id } = await keyring.register('a key of my own', { name: 'eight' }, NOW);
  const rotated = await keyring.rotate(id, 0, NOW);
  expect(rotated?.key).toMatch(new RegExp(`^sk_${id}_`));
  expect(await keyring.find('a key of my own', NOW)).toBeUndefined();
  await expect(keyring.register('a key of my own', { name: 'eight' }, NOW)).rejects.toThrow(KeyTaken);
  expect((await keyring.find(rotated?.key ?? '', NOW))?.id).toBe(id);
});

test('a revoked key cannot be rotated or changed, also if it is revoked at the same time', async () => {
  const { id } = await keyring.register(makeKey(), { name: 'nine' }, NOW);
  await Promise.all([keyring.revoke(id, NOW), keyring.rotate(id, 0, NOW).catch(() => {})]);
  await expect(keyring.rotate(id, 0, NOW)).rejects.toThrow(KeyNotLive);
  await expect(keyring.update(id, { name: 'ten' })).rejects.toThrow(KeyNotLive);
  expect(await keyring.rotate('nobody', 0, NOW)).toBeUndefined();
  expect(await keyring.update('nobody', { name: 'ten' })).toBeUndefined();
  expect(await rig.redis.exists('{sluice}:key:nobody')).toBe(0);
});

test('a missing or malformed record does not hide other keys from the list or its pages', async () => {
  const ids: string[] = [];
  for (let i = 0; i < 5; i++) {
    ids.push((await keyring.register(makeKey(), { name: `page ${i}` }, NOW + 1_000_000 + i)).id);
  }
  const [, missing = '', , malformed = ''] = ids;
  await rig.redis.del(`{sluice}:key:${missing}`);
  await rig.redis.hset(`{sluice}:key:${malformed}`, 'scopes', 'everything');
  const first = await rig.redis.zrank('{sluice}:keys', ids[0] ?? '');
  const seen: string[] = [];
  const unreadable: string[] = [];
  for (let offset = first ?? 0, more = true; more; offset += 2) {
    const page = await keyring.list(offset, 2);
    seen.push(...page.records.map(({ id }) => id));
    unreadable.push(...page.unreadable);
    more = page.more;
  }
  expect(seen).toEqual(ids.filter((id) => id !== missing && id !== malformed));
  expect(unreadable).toEqual([missing, malformed]);
});
