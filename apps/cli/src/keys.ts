import {
  type KeyBody,
  keyNameSchema,
  limitsSchema,
  MAX_COUNT,
  MAX_WINDOW_SECONDS,
  type Scope,
  scopeSchema,
} from '@sluice/contract';
import {
  connectRedis,
  createLog,
  isLive,
  type KeyChanges,
  KeyNotLive,
  type KeyRecord,
  Keyring,
  KeyTaken,
  keyBody,
  type Limit,
  makeKey,
  redactUrls,
  redisTimeMs,
  Usage,
} from '@sluice/shared';
import { type Command, InvalidArgumentError } from 'commander';
import type { Redis } from 'ioredis';
import { CliError } from './cliError.js';
import { parseDuration } from './duration.js';
import { readKeyFile, writeKeyFile } from './keyFile.js';
import { table } from './table.js';
import { print, redisUrl } from './terminal.js';

interface KeyOptions {
  name?: string;
  limit?: number[];
  window?: number[];
  bulk?: number;
  scope?: Scope[];
  expires?: number | null;
}

/** The options that say what a key may do. */
function addKeyOptions(command: Command): Command {
  return command
    .option('--limit <requests>', 'own rate limit: requests in a window; may come again', collect(positive))
    .option(
      '--window <seconds>',
      'length of the window of the --limit before it (default 60)',
      collect(windowSeconds),
    )
    .option('--bulk <texts>', 'how many texts may wait in unfinished batches (default 100000)', notNegative)
    .option('--scope <scopes>', 'predict, batch, or both (default)', scopes);
}

/** Adds `keys create|list|update|revoke|rotate|usage|ensure`. */
export function addKeysCommands(program: Command): void {
  const keys = program.command('keys').description('API keys');

  addKeyOptions(
    keys
      .command('create')
      .description('make a key and show it, once')
      .requiredOption('--name <name>', 'for people; need not be unique', keyName),
  )
    .option('--expires <duration>', 'after 90d, 24h, 30m …', duration)
    .action(async (options: KeyOptions & { name: string }) => {
      const limits = limitsOf(keys, options);
      await withKeyring(async (keyring, nowMs) => {
        const key = makeKey();
        const expiresAtMs = typeof options.expires === 'number' ? nowMs + options.expires : undefined;
        const record = await keyring.register(
          key,
          { name: options.name, ...mayDo(options, limits), expiresAtMs },
          nowMs,
        );
        print(
          keys,
          { key, ...keyBody(record, nowMs) },
          () => `${key}\nKeep it: only its hash is stored. Its id is ${record.id}.`,
        );
      });
    });

  addKeyOptions(
    keys
      .command('update')
      .description('change what a key may do; the next request goes by it')
      .argument('<id>', 'key id, as `keys list` shows it')
      .option('--name <name>', 'for people; need not be unique', keyName),
  )
    .option('--expires <duration>', 'after 90d, 24h, 30m … from now, or never', durationOrNever)
    .action(async (id: string, options: KeyOptions) => {
      const limits = limitsOf(keys, options);
      await withKeyring(async (keyring, nowMs) => {
        const changes: KeyChanges = {
          ...(options.name === undefined ? {} : { name: options.name }),
          ...mayDo(options, limits),
          ...(options.expires === undefined
            ? {}
            : { expiresAtMs: options.expires === null ? null : nowMs + options.expires }),
        };
        if (Object.keys(changes).length === 0) keys.error('error: nothing to change', { exitCode: 2 });
        const record = known(id, await keyring.update(id, changes));
        print(keys, keyBody(record, nowMs), () => keyTable([keyBody(record, nowMs)]));
      });
    });

  keys
    .command('list')
    .description('all keys, without their secrets')
    .action(() =>
      withKeyring(async (keyring, nowMs) => {
        const { records: found, unreadable } = await keyring.list();
        const records = found.map((record) => keyBody(record, nowMs));
        for (const id of unreadable) process.stderr.write(`sluice: the record of ${id} cannot be read\n`);
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
        const record = known(id, await keyring.revoke(id, nowMs));
        print(keys, keyBody(record, nowMs), () => `Revoked ${record.id} (${record.name})`);
      }),
    );

  keys
    .command('rotate')
    .description('give a key a new secret and show it, once; id, limits and jobs stay')
    .argument('<id>', 'key id, as `keys list` shows it')
    .option(
      '--grace <duration>',
      'the old secret is good for 24h, 30m … more (default: it ends at once)',
      duration,
    )
    .action((id: string, { grace = 0 }: { grace?: number }) =>
      withKeyring(async (keyring, nowMs) => {
        const { key, record } = known(id, await keyring.rotate(id, grace, nowMs));
        const body = keyBody(record, nowMs);
        const until = body.previous_secret_until;
        print(
          keys,
          { key, ...body },
          () =>
            `${key}\nKeep it: only its hash is stored. The old secret ${until ? `is good until ${until}` : 'has ended'}.`,
        );
      }),
    );

  keys
    .command('usage')
    .description('what was done with a key, by day (UTC), for up to 90 days')
    .argument('<id>', 'key id, as `keys list` shows it')
    .action((id: string) =>
      withKeyring(async (keyring, _nowMs, redis) => {
        known(id, await keyring.read(id));
        const days = await new Usage(redis).read(id);
        print(keys, { key_id: id, days }, () =>
          days.length === 0
            ? 'Nothing was done with this key in the last 90 days'
            : table(
                ['DATE', 'REQUESTS', 'TEXTS', 'REFUSED'],
                days.map((day) => [day.date, ...[day.requests, day.texts, day.refused].map(String)]),
              ),
        );
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
        print(keys, { key, ...keyBody(record, nowMs) }, () => key);
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
  const { records } = await keyring.list();
  const named = records.find((record) => record.name === name && isLive(record, nowMs));
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
  try {
    const record = await keyring.register(kept, { name }, nowMs);
    return isLive(record, nowMs) ? { key: kept, record } : undefined;
  } catch (error) {
    // It was rotated: what the file holds is no key any more.
    if (error instanceof KeyTaken) return undefined;
    throw error;
  }
}

/** The record, or whatever else there is of a key, unless there is none. */
function known<T>(id: string, found: T | undefined): T {
  if (found === undefined) throw new CliError(`No key has the id ${id}`);
  return found;
}

async function withKeyring(
  action: (keyring: Keyring, nowMs: number, redis: Redis) => Promise<void>,
): Promise<void> {
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
    await action(new Keyring(redis), nowMs, redis);
  } catch (error) {
    throw error instanceof KeyNotLive ? new CliError(error.message) : error;
  } finally {
    redis.disconnect();
  }
}

function keyTable(records: readonly KeyBody[]): string {
  return table(
    ['ID', 'STATUS', 'SCOPES', 'LIMIT', 'CREATED', 'EXPIRES', 'LAST USED', 'NAME'],
    records.map((record) => [
      record.key_id,
      record.status,
      record.scopes.join(','),
      record.limits.map(({ limit, window_seconds }) => `${limit}/${window_seconds}s`).join(' ') || 'default',
      record.created_at,
      record.expires_at ?? 'never',
      record.last_used_at ?? 'never',
      record.name,
    ]),
  );
}

/** What of the options stands in a record under the same meaning. */
function mayDo({ bulk, scope }: KeyOptions, limits: Limit[] | undefined) {
  return {
    ...(scope ? { scopes: scope } : {}),
    ...(limits ? { limits } : {}),
    ...(bulk === undefined ? {} : { bulkLimit: bulk }),
  };
}

/** Each `--limit` with its `--window`. A wrong pair ends the command. */
function limitsOf(keys: Command, { limit = [], window = [] }: KeyOptions): Limit[] | undefined {
  if (limit.length === 0 && window.length === 0) return undefined;
  if (window.length !== limit.length && !(limit.length === 1 && window.length === 0)) {
    keys.error('error: each --window goes with a --limit', { exitCode: 2 });
  }
  const limits = limit.map((requests, i) => ({ limit: requests, window_seconds: window[i] ?? 60 }));
  const parsed = limitsSchema.safeParse(limits);
  const [issue] = parsed.error?.issues ?? [];
  if (issue) keys.error(`error: --limit and --window: ${issue.message}`, { exitCode: 2 });
  return limits.map(({ limit: requests, window_seconds }) => ({
    limit: requests,
    windowSeconds: window_seconds,
  }));
}

function whole(text: string, min: number, max = MAX_COUNT): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < min || value > max) {
    throw new InvalidArgumentError(`It has to be a whole number from ${min} to ${max}.`);
  }
  return value;
}
const positive = (text: string) => whole(text, 1);
const windowSeconds = (text: string) => whole(text, 1, MAX_WINDOW_SECONDS);
const notNegative = (text: string) => whole(text, 0);

/** For an option that may come several times. */
const collect =
  <T>(parse: (text: string) => T) =>
  (text: string, before: T[] = []): T[] => [...before, parse(text)];

function keyName(text: string): string {
  if (keyNameSchema.safeParse(text).success) return text;
  throw new InvalidArgumentError('It has to be 1 to 200 characters, on one line.');
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

const durationOrNever = (text: string): number | null => (text === 'never' ? null : duration(text));
