import { expect, test } from '@jest/globals';
import { createBudget } from './budget.js';

const seconds = (stallMs: number, timeoutMs: number) => ({ stallMs, timeoutMs });
/** The bundled classifier. */
const fast = { msPerRun: 0.3, msPerToken: 0.05 };
/** 2.8 s for a text. */
const slow = { msPerRun: 2_700, msPerToken: 5 };

test('a run of a fast model has the stall budget', () => {
  const { budgetMs, maxTokens } = createBudget(fast, seconds(2_000, 5_000));
  expect(budgetMs('interactive', 8, 64)).toBe(2_000);
  expect(budgetMs('bulk', 8, 64)).toBe(2_000);
  expect(maxTokens).toBeGreaterThan(1_024);
});

test('a run of a slow model may take five times its predicted time; in the interactive lane at most 40 % of the timeout', () => {
  const { budgetMs } = createBudget(slow, seconds(2_000, 20_000));
  expect(budgetMs('interactive', 1, 20)).toBe(8_000);
  expect(budgetMs('bulk', 1, 20)).toBe(14_000);
  expect(createBudget(slow, seconds(2_000, 60_000)).budgetMs('interactive', 1, 20)).toBe(14_000);
});

test('a micro-batch holds so few tokens that its run fits into the budget', () => {
  const cost = { msPerRun: 10, msPerToken: 1 };
  const { budgetMs, maxTokens } = createBudget(cost, seconds(100, 5_000));
  // A fifth of 2 s, less the cost of a run.
  expect(maxTokens).toBe(390);
  expect(5 * (10 + maxTokens)).toBeLessThanOrEqual(budgetMs('interactive', 1, maxTokens));
  expect(createBudget(slow, seconds(100, 5_000)).maxTokens).toBe(1);
});
