import {
  keyIdSchema,
  keyNameSchema,
  type LimitUnit,
  limitsSchema,
  limitUnitSchema,
  MAX_COUNT,
  MAX_WINDOW_SECONDS,
  type Scope,
  scopeSchema,
  webhookUrlSchema,
} from '@sluice/contract';
import type { Limit } from '@sluice/shared';
import { type Command, InvalidArgumentError } from 'commander';
import { parseDuration } from './duration.js';

/** Expiry of a key that never expires. commander would turn null into an empty string. */
export const NEVER = 'never';
const NONE = 'none';

/** The options of `keys create` and `keys update`, parsed. */
export interface KeyOptions {
  name?: string;
  limit?: number[];
  window?: number[];
  unit?: LimitUnit[];
  webhook?: string;
  bulk?: number;
  scope?: Scope[];
  /** In milliseconds. */
  expires?: number | typeof NEVER;
}

/** Adds the options for what a key may do. */
export function addKeyOptions(command: Command): Command {
  return command
    .option(
      '--limit <count>',
      'rate limit: maximum per window, in the --unit; may be repeated',
      collect(positive),
    )
    .option('--window <seconds>', 'window of the preceding --limit (default: 60)', collect(windowSeconds))
    .option(
      '--unit <unit>',
      'what the preceding --limit counts: requests, texts or tokens (default: requests)',
      collect(limitUnit),
    )
    .option('--bulk <texts>', 'how many texts may wait in unfinished jobs (default: 100000)', notNegative)
    .option('--scope <scopes>', 'predict, batch, or both (default: both)', scopes)
    .option(
      '--webhook <url>',
      'URL to notify when an OpenAI batch ends, or none (default: none)',
      webhookUrl,
    );
}

/** The options as fields of a record. */
export function keyFields({ bulk, scope, webhook }: KeyOptions, limits: Limit[] | undefined) {
  return {
    ...(scope ? { scopes: scope } : {}),
    ...(limits ? { limits } : {}),
    ...(bulk === undefined ? {} : { bulkLimit: bulk }),
    ...(webhook === undefined ? {} : { webhookUrl: webhook === NONE ? null : webhook }),
  };
}

/** Each `--limit` with its `--window`. An invalid pair ends the command. */
export function keyLimits(
  keys: Command,
  { limit = [], window = [], unit = [] }: KeyOptions,
): Limit[] | undefined {
  if (limit.length === 0 && window.length === 0 && unit.length === 0) return undefined;
  if (window.length !== limit.length && !(limit.length === 1 && window.length === 0)) {
    keys.error('error: each --window needs a --limit', { exitCode: 2 });
  }
  if (unit.length !== limit.length && unit.length > 0)
    keys.error('error: give a --unit for each --limit, or none', { exitCode: 2 });
  const limits = limit.map((count, i) => ({
    limit: count,
    window_seconds: window[i] ?? 60,
    unit: unit[i] ?? ('requests' as const),
  }));
  const parsed = limitsSchema.safeParse(limits);
  const [issue] = parsed.error?.issues ?? [];
  if (issue) keys.error(`error: --limit, --window and --unit: ${issue.message}`, { exitCode: 2 });
  return limits.map(({ limit: count, window_seconds, unit: counted }) => ({
    limit: count,
    windowSeconds: window_seconds,
    unit: counted,
  }));
}

/** @throws InvalidArgumentError */
function whole(text: string, min: number, max = MAX_COUNT): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < min || value > max) {
    throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`);
  }
  return value;
}
const positive = (text: string) => whole(text, 1);
function webhookUrl(text: string): string {
  const [issue] = text === NONE ? [] : (webhookUrlSchema.safeParse(text).error?.issues ?? []);
  if (issue) throw new InvalidArgumentError(`${issue.message}.`);
  return text;
}
const limitUnit = (text: string): LimitUnit => {
  const parsed = limitUnitSchema.safeParse(text);
  if (parsed.success) return parsed.data;
  throw new InvalidArgumentError(`It must be ${limitUnitSchema.options.join(', ')}.`);
};
const windowSeconds = (text: string) => whole(text, 1, MAX_WINDOW_SECONDS);
const notNegative = (text: string) => whole(text, 0);

/** For an option that may be repeated. */
const collect =
  <T>(parse: (text: string) => T) =>
  (text: string, before: T[] = []): T[] => [...before, parse(text)];

/** A name as the API takes it. @throws InvalidArgumentError */
export function keyName(text: string): string {
  if (keyNameSchema.safeParse(text).success) return text;
  throw new InvalidArgumentError('It must have 1 to 200 characters on one line.');
}

function scopes(text: string): Scope[] {
  const parsed = scopeSchema
    .array()
    .min(1)
    .safeParse([...new Set(text.split(','))]);
  if (!parsed.success) throw new InvalidArgumentError(`Scopes are ${scopeSchema.options.join(' and ')}.`);
  return parsed.data;
}

/** A duration in milliseconds. @throws InvalidArgumentError */
export function duration(text: string): number {
  try {
    return parseDuration(text);
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}

/** A duration in milliseconds, or `never`. @throws InvalidArgumentError */
export const durationOrNever = (text: string) => (text === NEVER ? NEVER : duration(text));

/** A key id. @throws InvalidArgumentError */
export function keyId(text: string): string {
  if (keyIdSchema.safeParse(text).success) return text;
  throw new InvalidArgumentError('A key id has 12 hex digits.');
}
