import { type Scope, scopeSchema } from '@sluice/contract';
import {
  connectRedis,
  createLog,
  isLive,
  type KeyRecord,
  Keyring,
  makeKey,
  redactUrls,
  redisTimeMs,
} from '@sluice/shared';
import { type Command, InvalidArgumentError } from 'commander';
import type { Redis } from 'ioredis';
import { CliError } from './cliError.js';
import { parseDuration } from './duration.js';
import { readKeyFile, writeKeyFile } from './keyFile.js';
import { table } from './table.js';
import { print, redisUrl } from './terminal.js';

interface CreateOptions {
  name: string;
  limit?: number;
  window?: number;
  bulk?: number;
  scope?: Scope[];
  expires?: number;
}

/** Adds `keys create|list|revoke|ensure`. */
export function addKeysCommands(program: Command): void {
  const keys = program.command('keys').description('API keys');

  keys
    .command('create')
    .description('make a key and show it, once')
    .requiredOption('--name <name>', 'for people; need not be unique', keyName)
    .option('--limit <requests>', 'own rate limit: requests in a window', positive)
    .option('--window <seconds>', 'length of that window (default 60)', windowSeconds)
    .option('--bulk <texts>', 'how many texts may wait in unfinished batches (default 100000)', notNegative)
    .option('--scope <scopes>', 'predict, batch, or both (default)', scopes)
    .option('--expires <duration>', 'after 90d, 24h, 30m …', duration)
    .action(async (options: CreateOptions) => {
      if (options.window !== undefined && options.limit === undefined) {
        keys.error('error: --window goes with --limit', { exitCode: 2 });
      }
      await withKeyring(async (keyring, nowMs) => {
        const key = makeKey();
        const record = await keyring.register(
          key,
          {
            name: options.name,
            ...(options.scope ? { scopes: options.scope } : {}),
            ...(options.limit
              ? { limits: [{ limit: options.limit, windowSeconds: options.window ?? 60 }] }
              : {}),
            ...(options.bulk === undefined ? {} : { bulkLimit: options.bulk }),
            expiresAtMs: options.expires === undefined ? undefined : nowMs + options.expires,
          },
          nowMs,
        );
        print(
          keys,
          { key, ...shown(record, nowMs) },
          () => `${key}\nKeep it: only its hash is stored. Its id is ${record.id}.`,
        );
      });
    });

  keys
    .command('list')
    .description('all keys, without their secrets')
    .action(() =>
      withKeyring(async (keyring, nowMs) => {
        const records = (await keyring.list()).map((record) => shown(record, nowMs));
        print(keys, records, () =>
          records.length === 0 ? 'No keys yet: sluice keys create --name …' : keyTable(records),
        );
      }),
    );

  keys
    .command('revoke')
    .description('end a key, at once and for good')
    .argument('<id>', 'key id, as `keys list` shows it')
    .action((id: string) =>
      withKeyring(async (keyring, nowMs) => {
        const record = await keyring.revoke(id, nowMs);
        if (record === undefined) throw new CliError(`No key has the id ${id}`);
        print(keys, shown(record, nowMs), () => `Revoked ${record.id} (${record.name})`);
      }),
    );

  keys
    .command('ensure')
    .description('make the key if that name has none, and keep it in a file: the first key of a deployment')
    .requiredOption('--name <name>', 'the first key of this name counts', keyName)
    .requiredOption('--key-file <file>', 'where the key is kept, readable by its owner alone')
    .action(({ name, keyFile }: { name: string; keyFile: string }) =>
      withKeyring(async (keyring, nowMs) => {
        const { key, record } = await ensure(keyring, name, keyFile, nowMs);
        print(keys, { key, ...shown(record, nowMs) }, () => key);
      }),
    );
}

/**
 * Sees to it that a name has a live key whose secret is known here.
 * @param name counts when the file holds no live key
 * @throws CliError when the name has a key but its secret is not here
 */
async function ensure(
  keyring: Keyring,
  name: string,
  keyFile: string,
  nowMs: number,
): Promise<{ key: string; record: KeyRecord }> {
  const kept = await readKeyFile(keyFile);
  const inFile = await registerKept(keyring, name, kept, nowMs);
  if (inFile) return inFile;
  const named = (await keyring.list()).find((record) => record.name === name && isLive(record, nowMs));
  if (named !== undefined) {
    // Whoever ensures the same at the same time may have been first.
    const other = await registerKept(keyring, name, await readKeyFile(keyFile), nowMs);
    if (other) return other;
    throw new CliError(
      `"${name}" has the key ${named.id}, but ${keyFile} does not hold its secret. ` +
        `Put the file back, or revoke the key (sluice keys revoke ${named.id}) and try again.`,
    );
  }
  const key = await writeKeyFile(keyFile, makeKey(), kept);
  return { key, record: await keyring.register(key, { name }, nowMs) };
}

/** Registers the key that a file holds, if it may be used. */
async function registerKept(keyring: Keyring, name: string, kept: string | undefined, nowMs: number) {
  if (kept === undefined) return undefined;
  const record = await keyring.register(kept, { name }, nowMs);
  return isLive(record, nowMs) ? { key: kept, record } : undefined;
}

async function withKeyring(action: (keyring: Keyring, nowMs: number) => Promise<void>): Promise<void> {
  const url = await redisUrl();
  const redis: Redis = connectRedis(
    url,
    'command',
    createLog('sluice', { LOG_LEVEL: 'silent', LOG_FORMAT: 'json' }),
  );
  try {
    const nowMs = await redisTimeMs(redis).catch((cause: unknown) => {
      throw new CliError(
        `Redis at ${redactUrls(url)} does not answer. Is Sluice running (npm start), or is REDIS_URL right?`,
        { cause },
      );
    });
    await action(new Keyring(redis), nowMs);
  } finally {
    redis.disconnect();
  }
}

/** A record as people and scripts see it. */
function shown(record: KeyRecord, nowMs: number) {
  const time = (ms: number | undefined) => (ms === undefined ? null : new Date(ms).toISOString());
  return {
    key_id: record.id,
    name: record.name,
    status: record.revokedAtMs !== undefined ? 'revoked' : isLive(record, nowMs) ? 'live' : 'expired',
    scopes: record.scopes,
    limits: record.limits.map(({ limit, windowSeconds }) => ({ limit, window_seconds: windowSeconds })),
    bulk_limit: record.bulkLimit,
    created_at: time(record.createdAtMs),
    expires_at: time(record.expiresAtMs),
    revoked_at: time(record.revokedAtMs),
  };
}

function keyTable(records: readonly ReturnType<typeof shown>[]): string {
  return table(
    ['ID', 'STATUS', 'SCOPES', 'LIMIT', 'CREATED', 'EXPIRES', 'NAME'],
    records.map((record) => [
      record.key_id,
      record.status,
      record.scopes.join(','),
      record.limits.map(({ limit, window_seconds }) => `${limit}/${window_seconds}s`).join(' ') || 'default',
      record.created_at ?? '',
      record.expires_at ?? 'never',
      record.name,
    ]),
  );
}

function whole(text: string, min: number, max: number): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < min || value > max) {
    throw new InvalidArgumentError(`It has to be a whole number from ${min} to ${max}.`);
  }
  return value;
}
const MOST = 1_000_000_000;
const YEAR_SECONDS = 31_536_000;
const positive = (text: string) => whole(text, 1, MOST);
const notNegative = (text: string) => whole(text, 0, MOST);
const windowSeconds = (text: string) => whole(text, 1, YEAR_SECONDS);

function keyName(text: string): string {
  if (text.trim() === '' || text.length > 200 || /\p{Cc}/u.test(text)) {
    throw new InvalidArgumentError('It has to be 1 to 200 characters, on one line.');
  }
  return text;
}

function scopes(text: string): Scope[] {
  const parsed = scopeSchema
    .array()
    .min(1)
    .safeParse([...new Set(text.split(','))]);
  if (!parsed.success) throw new InvalidArgumentError(`Scopes are ${scopeSchema.options.join(' and ')}.`);
  return parsed.data;
}

function duration(text: string): number {
  try {
    return parseDuration(text);
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}
