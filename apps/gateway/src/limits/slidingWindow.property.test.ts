import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { connectRedis } from '@sluice/shared';
import fc from 'fast-check';
import type { Redis } from 'ioredis';
import { Rig, silentLog } from '../../../../tests/harness.js';
import { SlidingWindow, tickMs, type WindowState } from './slidingWindow.js';

const GATEWAYS = 3;
let rig: Rig;
let connections: Redis[];
beforeAll(async () => {
  rig = await Rig.start();
  connections = Array.from({ length: GATEWAYS }, () => connectRedis(rig.redisUrl, 'worker', silentLog));
});
afterAll(async () => {
  for (const connection of connections) connection.disconnect();
  await rig.close();
});

const START = Date.UTC(2026, 0, 1);
let keys = 0;
let refunds = 0;

const limits = fc.uniqueArray(
  fc.record({ limit: fc.integer({ min: 1, max: 6 }), windowSeconds: fc.constantFrom(1, 7, 60, 3_600) }),
  { minLength: 1, maxLength: 3, selector: ({ windowSeconds }) => windowSeconds },
);
/** Time that passes, then simultaneous requests at several gateways, or a refund. */
const step = fc.record({
  passesMs: fc.oneof(
    fc.constantFrom(0, 1, 999, 1_000, 1_001, 6_999, 7_000, 59_999, 60_000, 3_600_000),
    fc.integer({ min: 0, max: 3_000 }),
  ),
  requests: fc.array(fc.nat({ max: GATEWAYS - 1 }), { maxLength: 6 }),
  /** Which of the taken slots to return, and at how many gateways the refund is tried. */
  refund: fc.option(fc.record({ which: fc.nat(), tries: fc.integer({ min: 1, max: 2 }) }), { freq: 4 }),
});
/** By how much Redis's clock is set back between two steps. */
const setBackMs = fc.option(fc.integer({ min: 1, max: 100_000 }), { freq: 5 });

interface TakenSlot {
  /** The time that had passed when it was taken. */
  atMs: number;
  windows: readonly WindowState[];
}

/** Runs steps against the limiter; `judge` receives each decision and the slots taken before it. */
async function run(
  windows: { limit: number; windowSeconds: number }[],
  steps: {
    passesMs: number;
    requests: number[];
    refund: { which: number; tries: number } | null;
    setBackMs?: number | null;
  }[],
  judge: (taken: boolean, nowMs: number, slots: readonly TakenSlot[]) => void,
) {
  const keyId = `key-${++keys}`;
  const gateways = connections.map((redis) => new SlidingWindow(redis, windows, '{test}:limit'));
  let slots: TakenSlot[] = [];
  let elapsedMs = 0;
  let clockMs = START;
  for (const { passesMs, requests, refund, setBackMs: back } of steps) {
    elapsedMs += passesMs;
    clockMs += passesMs - (back ?? 0);
    const answers = await Promise.all(
      requests.map((gateway) => (gateways[gateway] as SlidingWindow).take(keyId, { nowMs: clockMs })),
    );
    // At the same time the order does not matter: judge the taken ones first.
    for (const { taken, windows: states } of answers.sort((a, b) => Number(b.taken) - Number(a.taken))) {
      judge(taken, elapsedMs, slots);
      if (taken) slots = [...slots, { atMs: elapsedMs, windows: states }];
    }
    const returned = refund && slots.length > 0 ? slots[refund.which % slots.length] : undefined;
    if (returned && refund) {
      const id = `refund-${++refunds}`;
      await Promise.all(
        gateways
          .slice(0, refund.tries)
          .map((gateway) => gateway.refund(keyId, { id, windows: returned.windows }, { nowMs: clockMs })),
      );
      slots = slots.filter((slot) => slot !== returned);
    }
  }
}

const within = (slots: readonly TakenSlot[], nowMs: number, lengthMs: number) =>
  slots.filter(({ atMs }) => atMs > nowMs - lengthMs).length;
const RUNS = 150;

test('for any requests and refunds at any gateways the limiter never allows more than the reference model, and is at most one tick later', async () => {
  let [taken, refused] = [0, 0];
  await fc.assert(
    fc.asyncProperty(limits, fc.array(step, { maxLength: 25 }), (windows, steps) =>
      run(windows, steps, (wasTaken, nowMs, slots) => {
        if (wasTaken) taken++;
        else refused++;
        if (wasTaken) {
          for (const { limit, windowSeconds } of windows) {
            expect(within(slots, nowMs, windowSeconds * 1000)).toBeLessThan(limit);
          }
        } else {
          const full = windows.some(
            ({ limit, windowSeconds }) =>
              within(slots, nowMs, windowSeconds * 1000 + tickMs(windowSeconds)) >= limit,
          );
          expect(full).toBe(true);
        }
      }),
    ),
    { numRuns: RUNS, seed: 14 },
  );
  // Both kinds of decisions occurred.
  expect(Math.min(taken, refused)).toBeGreaterThan(RUNS);
}, 600_000);

test('also when the clock is set back, the limiter never allows more than the reference model of the elapsed time', async () => {
  await fc.assert(
    fc.asyncProperty(
      limits,
      fc.array(
        fc.tuple(step, setBackMs).map(([each, back]) => ({ ...each, refund: null, setBackMs: back })),
        { maxLength: 25 },
      ),
      (windows, steps) =>
        run(windows, steps, (wasTaken, nowMs, slots) => {
          if (!wasTaken) return;
          for (const { limit, windowSeconds } of windows) {
            expect(within(slots, nowMs, windowSeconds * 1000)).toBeLessThan(limit);
          }
        }),
    ),
    { numRuns: RUNS, seed: 14 },
  );
}, 600_000);
