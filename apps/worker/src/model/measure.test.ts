import { expect, test } from '@jest/globals';
import { taskNamed } from '@sluice/tasks';
import { costOf, measure } from './measure.js';
import type { TaskModel } from './taskModel.js';

const sample = (tokens: number, ms: number) => ({ tokens, ms });

test('the cost of a run is a fixed part and a part per token', () => {
  const cost = costOf([
    sample(4, 0.31 + 4 * 0.05),
    sample(20, 0.31 + 20 * 0.05),
    sample(60, 0.31 + 60 * 0.05),
  ]);
  expect(cost.msPerRun).toBeCloseTo(0.31, 6);
  expect(cost.msPerToken).toBeCloseTo(0.05, 6);
});

test.each([
  ['the longest probe was not slower than the shortest', [sample(4, 3), sample(60, 2.9)]],
  ['all probes took the same time', [sample(4, 3), sample(60, 3)]],
  ['the shortest probe was measured too fast', [sample(4, 0.01), sample(60, 3)]],
  ['there is one probe', [sample(4, 3)]],
  ['all probes took no time', [sample(4, 0), sample(60, 0)]],
])('a measuring error gives a usable cost: %s', (_, samples) => {
  const { msPerRun, msPerToken } = costOf(samples);
  expect(msPerRun).toBeGreaterThanOrEqual(0);
  expect(msPerToken).toBeGreaterThan(0);
  // In units of one token, as the batcher uses it.
  expect(msPerRun / msPerToken).toBeLessThan(250);
});

/** A model whose score depends on how many rows run together. */
const modelWith = (score: (together: number) => number): TaskModel => ({
  facts: { labels: ['X'], functionToApply: 'none' },
  probes: { inputs: ['a', 'b'], parameters: {} },
  run: async (rows) => {
    const value = score(rows.length);
    return rows.map(() => ({ raw: new Float32Array([value]), tokens: 3, truncated: false }));
  },
});

test.each<[string, (together: number) => number, number | null]>([
  ['equal scores', () => 0.5, 0],
  ['other scores', (together) => 0.5 + together / 8, 0.125],
  ['NaN', (together) => (together > 1 ? Number.NaN : 0.5), Number.MAX_VALUE],
  ['infinity', (together) => (together > 1 ? Number.POSITIVE_INFINITY : 0.5), Number.MAX_VALUE],
  [
    'an error',
    (together) => {
      if (together > 1) throw new Error('batch size 1 only');
      return 0.5;
    },
    null,
  ],
])(
  'the drift of a model that gives %s together can be represented in JSON',
  async (_name, score, expected) => {
    const { drift } = await measure(taskNamed('text-classification'), modelWith(score));
    expect(drift).toBe(expected);
    expect(JSON.parse(JSON.stringify(drift))).toBe(expected);
  },
);
