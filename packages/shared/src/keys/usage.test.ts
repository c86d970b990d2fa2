import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Rig } from '../../../../tests/harness.js';
import { Keyring, makeKey } from './keyring.js';
import { dayOf, Usage } from './usage.js';

let rig: Rig;
let keyring: Keyring;
let usage: Usage;
beforeAll(async () => {
  rig = await Rig.start();
  keyring = new Keyring(rig.redis);
  usage = new Usage(rig.redis);
});
afterAll(() => rig.close());

const DAY_MS = 86_400_000;
const NOW = Date.UTC(2026, 0, 1, 12);
let reports = 0;

async function aKey(): Promise<string> {
  return (await keyring.register(makeKey(), { name: 'test' }, NOW)).id;
}
const counted = (keyId: string, atMs = NOW, usedAtMs = 0) => ({
  keyId,
  date: dayOf(atMs),
  requests: 2,
  texts: 3,
  refused: 1,
  usedAtMs,
});

test('the counts of several gateways add up, and a repeated report counts once', async () => {
  const id = await aKey();
  const report = { gatewayId: 'one', number: ++reports };
  for (let i = 0; i < 3; i++) await usage.add(report, [counted(id)], NOW);
  await usage.add({ gatewayId: 'two', number: 1 }, [counted(id)], NOW);
  expect(await usage.read(id)).toEqual([{ date: '2026-01-01', requests: 4, texts: 6, refused: 2 }]);
});

test('a day is kept for ninety days', async () => {
  const id = await aKey();
  for (const day of [0, 1, 89, 90, 91]) {
    const atMs = NOW + day * DAY_MS;
    await usage.add({ gatewayId: 'three', number: ++reports }, [counted(id, atMs)], atMs);
  }
  const days = (await usage.read(id)).map(({ date }) => date);
  expect(days).toEqual([89, 90, 91].map((day) => dayOf(NOW + day * DAY_MS)));
  expect(await rig.redis.pttl(`{sluice}:usage:${id}`)).toBeGreaterThan(89 * DAY_MS);
});

test('the time of last use is written at most once a minute', async () => {
  const id = await aKey();
  const lastUsed = async (atMs: number) => {
    await usage.add({ gatewayId: 'four', number: ++reports }, [counted(id, NOW, atMs)], NOW);
    return (await keyring.read(id))?.lastUsedAtMs;
  };
  expect(await lastUsed(NOW)).toBe(NOW);
  expect(await lastUsed(NOW + 59_999)).toBe(NOW);
  expect(await lastUsed(NOW + 60_000)).toBe(NOW + 60_000);
});

test('nothing is written for an unknown key', async () => {
  await usage.add({ gatewayId: 'five', number: ++reports }, [counted('nobody', NOW, NOW)], NOW);
  expect(await rig.redis.keys('*nobody*')).toEqual([]);
});

test('a key with malformed usage does not affect the usage of others', async () => {
  const [malformed, intact] = [await aKey(), await aKey()];
  await rig.redis.set(`{sluice}:usage:${malformed}`, 'malformed');
  const report = { gatewayId: 'six', number: ++reports };
  expect(await usage.add(report, [counted(malformed), counted(intact)], NOW)).toEqual([
    `{sluice}:key:${malformed}`,
  ]);
  expect(await usage.read(intact)).toMatchObject([{ requests: 2 }]);
});
