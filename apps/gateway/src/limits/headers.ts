import { unitOf } from '@sluice/shared';
import { tightest, type WindowState } from './slidingWindow.js';

/** Whole seconds, rounded up. */
export const seconds = (ms: number): number => Math.ceil(ms / 1000);

/** The first window has the name `default`; the others are named by their length and unit. */
function policyName(index: number, window: WindowState): string {
  const unit = unitOf(window);
  if (index === 0) return '"default"';
  return unit === 'requests' ? `"${window.windowSeconds}s"` : `"${window.windowSeconds}s-${unit}"`;
}

/** The unit of a window, if it is not the draft's default. */
const quotaUnit = (window: WindowState) => (unitOf(window) === 'requests' ? '' : `;qu="${unitOf(window)}"`);

/** Header fields with the policies of all windows and the state of the tightest (draft-ietf-httpapi-ratelimit-headers). */
export function rateLimitHeaders(windows: readonly WindowState[]): Record<string, string> {
  const tight = tightest(windows);
  const policies = windows.map(
    (window, i) => `${policyName(i, window)};q=${window.limit}${quotaUnit(window)};w=${window.windowSeconds}`,
  );
  const name = policyName(windows.indexOf(tight), tight);
  return {
    'RateLimit-Policy': policies.join(', '),
    RateLimit: `${name};r=${tight.remaining};t=${seconds(tight.resetMs)}`,
  };
}
