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
let calls = 0;

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

test('what several gateways count adds up, and a call that is repeated counts once', async () => {
  const id = await aKey();
  const call = { gatewayId: 'one', number: ++calls };
  for (let i = 0; i < 3; i++) await usage.add(call, [counted(id)], NOW);
  await usage.add({ gatewayId: 'two', number: 1 }, [counted(id)], NOW);
  expect(await usage.read(id)).toEqual([{ date: '2026-01-01', requests: 4, texts: 6, refused: 2 }]);
});

test('a day is kept for ninety days', async () => {
  const id = await aKey();
  for (const day of [0, 1, 89, 90, 91]) {
    const atMs = NOW + day * DAY_MS;
    await usage.add({ gatewayId: 'three', number: ++calls }, [counted(id, atMs)], atMs);
  }
  const days = (await usage.read(id)).map(({ date }) => date);
  expect(days).toEqual([89, 90, 91].map((day) => dayOf(NOW + day * DAY_MS)));
  expect(await rig.redis.pttl(`{sluice}:usage:${id}`)).toBeGreaterThan(89 * DAY_MS);
});

test('a time of use is written at most once a minute', async () => {
  const id = await aKey();
  const lastUsed = async (atMs: number) => {
    await usage.add({ gatewayId: 'four', number: ++calls }, [counted(id, NOW, atMs)], NOW);
    return (await keyring.read(id))?.lastUsedAtMs;
  };
  expect(await lastUsed(NOW)).toBe(NOW);
  expect(await lastUsed(NOW + 59_999)).toBe(NOW);
  expect(await lastUsed(NOW + 60_000)).toBe(NOW + 60_000);
});

test('nothing is written for a key that is not there', async () => {
  await usage.add({ gatewayId: 'five', number: ++calls }, [counted('nobody', NOW, NOW)], NOW);
  expect(await rig.redis.keys('*nobody*')).toEqual([]);
});

test('a key whose usage is broken does not cost the others theirs', async () => {
  const [broken, well] = [await aKey(), await aKey()];
  await rig.redis.set(`{sluice}:usage:${broken}`, 'rubbish');
  const call = { gatewayId: 'six', number: ++calls };
  expect(await usage.add(call, [counted(broken), counted(well)], NOW)).toEqual([`{sluice}:key:${broken}`]);
  expect(await usage.read(well)).toMatchObject([{ requests: 2 }]);
});
