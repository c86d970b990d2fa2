import { seconds } from '../../limits/headers.js';
import { tightest, type WindowState } from '../../limits/slidingWindow.js';

/** The tightest window as OpenAI's header fields (https://platform.openai.com/docs/guides/rate-limits). */
export function openAiLimitHeaders(windows: readonly WindowState[]): Record<string, string> {
  const { limit, remaining, resetMs } = tightest(windows);
  return {
    'x-ratelimit-limit-requests': String(limit),
    'x-ratelimit-remaining-requests': String(remaining),
    'x-ratelimit-reset-requests': `${seconds(resetMs)}s`,
  };
}
