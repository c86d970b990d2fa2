import { unitOf } from '@sluice/shared';
import { seconds } from '../../limits/headers.js';
import { tightest, type WindowState } from '../../limits/slidingWindow.js';

/**
 * The tightest window of requests, and the one of tokens, as OpenAI's header fields
 * (https://platform.openai.com/docs/guides/rate-limits).
 */
export function openAiLimitHeaders(windows: readonly WindowState[]): Record<string, string> {
  return Object.fromEntries(
    (['requests', 'tokens'] as const).flatMap((unit) => {
      const ofUnit = windows.filter((window) => unitOf(window) === unit);
      if (ofUnit.length === 0) return [];
      const { limit, remaining, resetMs } = tightest(ofUnit);
      return [
        [`x-ratelimit-limit-${unit}`, String(limit)],
        [`x-ratelimit-remaining-${unit}`, String(remaining)],
        [`x-ratelimit-reset-${unit}`, `${seconds(resetMs)}s`],
      ];
    }),
  );
}
