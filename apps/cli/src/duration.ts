import { MAX_LIFE_SECONDS } from '@sluice/contract';

const MAX_MS = 1000 * MAX_LIFE_SECONDS;
const UNITS = new Map([
  ['s', 1],
  ['m', 60],
  ['h', 3_600],
  ['d', 86_400],
  ['w', 604_800],
]);

/**
 * Parses a duration such as `90d`, `24h`, `30m` or `45s`, up to ten years, to milliseconds.
 * @throws RangeError that shows valid durations
 */
export function parseDuration(text: string): number {
  const [, count, unit] = /^(\d{1,9})([smhdw])$/.exec(text) ?? [];
  const seconds = UNITS.get(unit ?? '') ?? 0;
  const ms = Number(count) * seconds * 1000;
  if (ms > 0 && ms <= MAX_MS) return ms;
  throw new RangeError(`"${text}" is not a duration of up to ten years: write 45s, 30m, 24h, 90d or 2w`);
}

/** A duration for people: its two largest units, such as `2h 5m`. */
export function formatDuration(seconds: number): string {
  let rest = Math.floor(seconds);
  const parts: string[] = [];
  for (const [unit, length] of [...UNITS].reverse()) {
    if (rest >= length) parts.push(`${Math.floor(rest / length)}${unit}`);
    rest %= length;
  }
  return parts.slice(0, 2).join(' ') || '0s';
}
