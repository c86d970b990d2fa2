const UNITS = { s: 1, m: 60, h: 3_600, d: 86_400, w: 604_800 } as const;

/**
 * Milliseconds of a duration such as `90d`, `24h`, `30m` or `45s`.
 * @throws RangeError that says how to write one
 */
export function parseDuration(text: string): number {
  const [, count, unit] = /^(\d{1,9})([smhdw])$/.exec(text) ?? [];
  if (count === undefined || unit === undefined || Number(count) === 0) {
    throw new RangeError(`"${text}" is not a duration: write 45s, 30m, 24h, 90d or 2w`);
  }
  return Number(count) * UNITS[unit as keyof typeof UNITS] * 1000;
}
