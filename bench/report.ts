import { execFileSync } from 'node:child_process';
import { cpus, totalmem } from 'node:os';

/** One measured quantity with its target. */
export interface Row {
  what: string;
  unit: string;
  /** One value per round. */
  values: number[];
  /** Whether the median reaches the target; undefined for a row without a target. */
  target?: { text: string; holds: (median: number) => boolean };
}

/** Results of a run, written as JSON. */
export interface Results {
  date: string;
  machine: Record<string, string | number>;
  missing: string[];
  rows: Row[];
  /** Requests/s and latencies by server and number of clients; medians of the rounds. */
  curves: Curve[];
}

export interface Curve {
  name: string;
  points: { clients: number; perSecond: number; p50: number; p99: number }[];
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

export const atLeast = (bound: number) => ({ text: `≥ ${bound}`, holds: (value: number) => value >= bound });
export const atMost = (bound: number) => ({ text: `≤ ${bound}`, holds: (value: number) => value <= bound });

/** The machine on which the figures were measured. */
export function machine(): Results['machine'] {
  const version = (program: string) =>
    execFileSync(program, ['--version'], { encoding: 'utf8' }).trim().split('\n')[0] ?? '';
  return {
    processor: cpus()[0]?.model.trim() ?? 'unknown',
    cores: cpus().length,
    memory_gb: Math.round(totalmem() / 1e9),
    node: process.version,
    redis: /v=(\S+)/.exec(version('redis-server'))?.[1] ?? 'unknown',
  };
}

const digits = (value: number) =>
  Number.isNaN(value) ? '–' : value.toFixed(Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2);

/** The rows as a Markdown table with the median and range of the rounds. */
export function table(rows: readonly Row[]): string {
  const lines = rows.map(({ what, unit, values, target }) => {
    const middle = median(values);
    const range = values.length > 1 ? `${digits(Math.min(...values))} – ${digits(Math.max(...values))}` : '';
    const verdict = target ? `${target.text} ${target.holds(middle) ? '✓' : '✗'}` : '';
    return `| ${what} | ${`${digits(middle)} ${unit}`.trim()} | ${range} | ${verdict} |`;
  });
  return ['| what | median | range of rounds | target |', '| --- | --- | --- | --- |', ...lines].join('\n');
}
