import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { Limit } from '@sluice/shared';
import { Rig } from '../../../../tests/harness.js';
import { SlidingWindow, tickMs } from './slidingWindow.js';

let rig: Rig;
beforeAll(async () => {
  rig = await Rig.start();
});
afterAll(() => rig.close());

let keys = 0;
/** A new key. */
const newKey = () => `key-${++keys}`;
const window = (...limits: Limit[]) => new SlidingWindow(rig.redis, limits, '{test}:limit');
const tenAMinute = { limit: 10, windowSeconds: 60 };
/** The start of a minute. */
const MINUTE = Date.UTC(2026, 0, 1, 12, 0, 0);

/** Takes a slot, at a time if one is given. */
const take = (limiter: SlidingWindow, key: string, nowMs?: number) =>
  limiter.take(key, nowMs === undefined ? {} : { nowMs });

test('a request gets the free slots and the time until the next one', async () => {
  const [limiter, key] = [window(tenAMinute), newKey()];
  const first = await take(limiter, key, MINUTE);
  expect(first.windows).toMatchObject([{ remaining: 9, resetMs: 60_000 }]);
  const second = await take(limiter, key, MINUTE + 20_000);
  expect(second.windows).toMatchObject([{ remaining: 8, resetMs: 40_000 }]);
});

test('reading the state takes nothing', async () => {
  const [limiter, key] = [window(tenAMinute), newKey()];
  expect(await limiter.look(key)).toMatchObject([{ remaining: 10, resetMs: 0 }]);
  expect(await rig.redis.keys(`*${key}*`)).toEqual([]);
});

test('no interval of 60 s has more than ten requests, also around the start of a minute', async () => {
  const [limiter, key] = [window(tenAMinute), newKey()];
  const taken: number[] = [];
  // A request every 250 ms over three starts of a minute: a fixed window would allow twenty around each.
  for (let nowMs = MINUTE - 30_000; nowMs < MINUTE + 150_000; nowMs += 250) {
    if ((await take(limiter, key, nowMs)).taken) taken.push(nowMs);
  }
  expect(taken).toHaveLength(30);
  for (const start of taken) {
    expect(taken.filter((at) => at >= start && at < start + 60_000).length).toBeLessThanOrEqual(10);
  }
});

test('ten requests at the end of a minute leave none for the start of the next', async () => {
  const [limiter, key] = [window(tenAMinute), newKey()];
  for (let i = 0; i < 10; i++) expect((await take(limiter, key, MINUTE - 100 + i)).taken).toBe(true);
  for (let i = 0; i < 10; i++) expect((await take(limiter, key, MINUTE + i)).taken).toBe(false);
});

test('a slot becomes free exactly one window later: the window is half-open', async () => {
  const [limiter, key] = [window({ limit: 1, windowSeconds: 60 }), newKey()];
  expect((await take(limiter, key, MINUTE)).taken).toBe(true);
  expect((await take(limiter, key, MINUTE + 59_999)).taken).toBe(false);
  expect((await take(limiter, key, MINUTE + 60_000)).taken).toBe(true);
});

test('a refusal takes nothing and returns the time to wait', async () => {
  const [limiter, key] = [window({ limit: 2, windowSeconds: 60 }), newKey()];
  await take(limiter, key, MINUTE);
  await take(limiter, key, MINUTE + 10_000);
  const before = await rig.redis.lrange(`{test}:limit:${key}:60`, 0, -1);
  const refused = await take(limiter, key, MINUTE + 30_000);
  expect([refused.taken, refused.windows[0]?.resetMs]).toEqual([false, 30_000]);
  expect(await rig.redis.lrange(`{test}:limit:${key}:60`, 0, -1)).toEqual(before);
});

test('a refund returns its own entry and no other', async () => {
  const [limiter, key] = [window({ limit: 3, windowSeconds: 60 }), newKey()];
  await take(limiter, key, MINUTE);
  const second = await take(limiter, key, MINUTE + 10_000);
  await take(limiter, key, MINUTE + 20_000);
  const refund = { id: 'second', windows: second.windows };
  await limiter.refund(key, refund, { nowMs: MINUTE + 30_000 });
  const look = (nowMs: number) => limiter.look(key, { nowMs });
  expect(await look(MINUTE + 30_000)).toMatchObject([{ remaining: 1, resetMs: 30_000 }]);
  // The first entry leaves at 60 s and the third at 80 s; nothing leaves at 70 s.
  expect(await look(MINUTE + 60_000)).toMatchObject([{ remaining: 2, resetMs: 20_000 }]);
  // A second refund of the same entry does nothing.
  await limiter.refund(key, { ...refund, id: 'another' }, { nowMs: MINUTE + 61_000 });
  expect(await look(MINUTE + 61_000)).toMatchObject([{ remaining: 2 }]);
});

test('a refund of one of many requests in a tick returns one slot', async () => {
  const [limiter, key] = [window(tenAMinute), newKey()];
  const answers = [];
  for (let i = 0; i < 5; i++) answers.push(await take(limiter, key, MINUTE));
  const refund = { id: 'one of five', windows: answers[0]?.windows ?? [] };
  // Repeated, as after a lost reply, it is the same refund.
  for (let i = 0; i < 3; i++) await limiter.refund(key, refund, { nowMs: MINUTE });
  expect(await limiter.look(key, { nowMs: MINUTE })).toMatchObject([{ remaining: 6 }]);
});

test('several windows are taken together or not at all', async () => {
  const limiter = window({ limit: 2, windowSeconds: 1 }, { limit: 3, windowSeconds: 60 });
  const key = newKey();
  expect((await take(limiter, key, MINUTE)).taken).toBe(true);
  expect((await take(limiter, key, MINUTE + 1)).taken).toBe(true);
  expect((await take(limiter, key, MINUTE + 2)).taken).toBe(false);
  expect((await take(limiter, key, MINUTE + 2_000)).taken).toBe(true);
  const last = await take(limiter, key, MINUTE + 4_000);
  expect(last.taken).toBe(false);
  expect(last.windows).toMatchObject([
    { remaining: 2, resetMs: 0 },
    // The first two shared a tick of 6 ms and leave with the later one.
    { remaining: 0, resetMs: 56_001 },
  ]);
});

test('memory is bounded whatever the limit', async () => {
  const [limiter, key] = [window({ limit: 1_000_000, windowSeconds: 10 }), newKey()];
  expect(tickMs(10)).toBe(1);
  // 30 requests a tick for 200 ticks.
  for (let i = 0; i < 200; i++) {
    const nowMs = MINUTE + i * tickMs(10);
    await Promise.all(Array.from({ length: 30 }, () => take(limiter, key, nowMs)));
  }
  expect(await rig.redis.llen(`{test}:limit:${key}:10`)).toBe(1 + 2 * 200);
  expect(await limiter.look(key, { nowMs: MINUTE + 199 })).toMatchObject([{ remaining: 994_000 }]);
  // Two windows later these pairs are gone.
  await take(limiter, key, MINUTE + 20_000);
  expect(await rig.redis.llen(`{test}:limit:${key}:10`)).toBe(3);
  // In milliseconds: the window (10,000), a quarter of it (2,500), and a tick (1).
  expect(await rig.redis.pttl(`{test}:limit:${key}:10`)).toBeLessThanOrEqual(12_501);
});

test('if the clock is set back, a slot becomes free late, never early, and not later than one window', async () => {
  const [limiter, key] = [window({ limit: 1, windowSeconds: 60 }), newKey()];
  await take(limiter, key, MINUTE);
  const hourBefore = MINUTE - 3_600_000;
  const refused = await take(limiter, key, hourBefore);
  expect([refused.taken, refused.windows[0]?.resetMs]).toEqual([false, 60_000]);
  expect((await take(limiter, key, hourBefore + 59_999)).taken).toBe(false);
  expect((await take(limiter, key, hourBefore + 60_000)).taken).toBe(true);
});

test('a call that runs too late writes nothing', async () => {
  const [limiter, key] = [window(tenAMinute), newKey()];
  await expect(limiter.take(key, { notAfterMs: Date.now() - 1_000 })).rejects.toThrow('LATE');
  expect(await rig.redis.keys(`*${key}*`)).toEqual([]);
});

test("it uses Redis's clock by default", async () => {
  const [limiter, key] = [window(tenAMinute), newKey()];
  await take(limiter, key);
  const [, atUs] = await rig.redis.lrange(`{test}:limit:${key}:60`, 0, -1);
  const [seconds] = await rig.redis.time();
  expect(Math.abs(Number(atUs) / 1e6 - Number(seconds))).toBeLessThan(5);
});
