import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { connectRedis } from '@sluice/shared';
import fc from 'fast-check';
import type { Redis } from 'ioredis';
import { Rig, silentLog } from '../../../../tests/harness.js';
import { SlidingWindow, SlidingWindowRes, tickMs, type WindowState } from './slidingWindow.js';

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
let callers = 0;
let refunds = 0;

const limits = fc.uniqueArray(
  fc.record({ limit: fc.integer({ min: 1, max: 6 }), windowSeconds: fc.constantFrom(1, 7, 60, 3_600) }),
  { minLength: 1, maxLength: 3, selector: ({ windowSeconds }) => windowSeconds },
);
/** Time that passes, then requests that come at once at several gateways, or a place that is given back. */
const step = fc.record({
  passesMs: fc.oneof(
    fc.constantFrom(0, 1, 999, 1_000, 1_001, 6_999, 7_000, 59_999, 60_000, 3_600_000),
    fc.integer({ min: 0, max: 3_000 }),
  ),
  requests: fc.array(fc.nat({ max: GATEWAYS - 1 }), { maxLength: 6 }),
  /** Which of the places taken so far to give back, and at how many gateways that is tried. */
  refund: fc.option(fc.record({ which: fc.nat(), tries: fc.integer({ min: 1, max: 2 }) }), { freq: 4 }),
});
/** Redis's clock is set back by so much between two steps. */
const setBackMs = fc.option(fc.integer({ min: 1, max: 100_000 }), { freq: 5 });

interface Place {
  /** The time that passed until it was taken. */
  atMs: number;
  windows: readonly WindowState[];
}

/** Runs steps against the limiter; `judge` hears of each decision, with the places that are taken before it. */
async function run(
  windows: { limit: number; windowSeconds: number }[],
  steps: {
    passesMs: number;
    requests: number[];
    refund: { which: number; tries: number } | null;
    setBackMs?: number | null;
  }[],
  judge: (taken: boolean, nowMs: number, places: readonly Place[]) => void,
) {
  const caller = `caller-${++callers}`;
  const gateways = connections.map((redis) => new SlidingWindow(redis, windows, '{test}:limit'));
  let places: Place[] = [];
  let elapsedMs = 0;
  let clockMs = START;
  for (const { passesMs, requests, refund, setBackMs: back } of steps) {
    elapsedMs += passesMs;
    clockMs += passesMs - (back ?? 0);
    const answers = await Promise.all(
      requests.map((gateway) =>
        (gateways[gateway] as SlidingWindow).consume(caller, 1, { nowMs: clockMs }).then(
          (result: unknown) => ({ taken: true, result }),
          (result: unknown) => ({ taken: false, result }),
        ),
      ),
    );
    // At one time it does not matter in which order they came: those that were taken first.
    for (const { taken, result } of answers.sort((a, b) => Number(b.taken) - Number(a.taken))) {
      if (!(result instanceof SlidingWindowRes)) throw result;
      judge(taken, elapsedMs, places);
      if (taken) places = [...places, { atMs: elapsedMs, windows: result.windows }];
    }
    const given = refund && places.length > 0 ? places[refund.which % places.length] : undefined;
    if (given && refund) {
      const id = `refund-${++refunds}`;
      await Promise.all(
        gateways
          .slice(0, refund.tries)
          .map((gateway) => gateway.refund(caller, { id, windows: given.windows }, { nowMs: clockMs })),
      );
      places = places.filter((place) => place !== given);
    }
  }
}

const within = (places: readonly Place[], nowMs: number, lengthMs: number) =>
  places.filter(({ atMs }) => atMs > nowMs - lengthMs).length;
const RUNS = 150;

test('for any requests and refunds at any gateways it never exceeds a plain model, and lags it by at most a tick', async () => {
  let [taken, refused] = [0, 0];
  await fc.assert(
    fc.asyncProperty(limits, fc.array(step, { maxLength: 25 }), (windows, steps) =>
      run(windows, steps, (wasTaken, nowMs, places) => {
        if (wasTaken) taken++;
        else refused++;
        if (wasTaken) {
          for (const { limit, windowSeconds } of windows) {
            expect(within(places, nowMs, windowSeconds * 1000)).toBeLessThan(limit);
          }
        } else {
          const full = windows.some(
            ({ limit, windowSeconds }) =>
              within(places, nowMs, windowSeconds * 1000 + tickMs(windowSeconds)) >= limit,
          );
          expect(full).toBe(true);
        }
      }),
    ),
    { numRuns: RUNS, seed: 14 },
  );
  // It has seen both.
  expect(Math.min(taken, refused)).toBeGreaterThan(RUNS);
}, 600_000);

test('also when the clock is set back it never exceeds the model of the time that has passed', async () => {
  await fc.assert(
    fc.asyncProperty(
      limits,
      fc.array(
        fc.tuple(step, setBackMs).map(([each, back]) => ({ ...each, refund: null, setBackMs: back })),
        { maxLength: 25 },
      ),
      (windows, steps) =>
        run(windows, steps, (wasTaken, nowMs, places) => {
          if (!wasTaken) return;
          for (const { limit, windowSeconds } of windows) {
            expect(within(places, nowMs, windowSeconds * 1000)).toBeLessThan(limit);
          }
        }),
    ),
    { numRuns: RUNS, seed: 14 },
  );
}, 600_000);
