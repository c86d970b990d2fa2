import { tightest, type WindowState } from './slidingWindow.js';

/** Whole seconds, rounded up. */
export const seconds = (ms: number): number => Math.ceil(ms / 1000);

/** The first window has the name `default`; the others are named by their length. */
const policyName = (index: number, windowSeconds: number) =>
  index === 0 ? '"default"' : `"${windowSeconds}s"`;

/** Header fields with the policies of all windows and the state of the tightest (draft-ietf-httpapi-ratelimit-headers). */
export function rateLimitHeaders(windows: readonly WindowState[]): Record<string, string> {
  const tight = tightest(windows);
  const policies = windows.map(
    ({ limit, windowSeconds }, i) => `${policyName(i, windowSeconds)};q=${limit};w=${windowSeconds}`,
  );
  const name = policyName(windows.indexOf(tight), tight.windowSeconds);
  return {
    'RateLimit-Policy': policies.join(', '),
    RateLimit: `${name};r=${tight.remaining};t=${seconds(tight.resetMs)}`,
  };
}
