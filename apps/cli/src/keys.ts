import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import {
  type KeyBody,
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
import {
  isLive,
  type KeyChanges,
  type KeyRecord,
  type Keyring,
  KeyTaken,
  keyBody,
  type Limit,
  makeKey,
  readSettings,
  Usage,
} from '@sluice/shared';
import { type Command, InvalidArgumentError } from 'commander';
import { CliError } from './cliError.js';
import { parseDuration } from './duration.js';
import { addKeyBackupCommands } from './keyBackup.js';
import { readKeyFile, readText, replaceKeyFile, writeKeyFile } from './keyFile.js';
import { recordChange, withKeyring } from './keyring.js';
import { table } from './table.js';
import { commandName, print } from './terminal.js';

/** Expiry of a key that never expires. commander would turn null into an empty string. */
const NEVER = 'never';
const NONE = 'none';

interface KeyOptions {
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
function addKeyOptions(command: Command): Command {
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

/** Adds `keys create|list|update|revoke|rotate|usage|ensure|export|import`. */
export function addKeysCommands(program: Command): void {
  const keys = program.command('keys').description('manage API keys');

  addKeyOptions(
    keys
      .command('create')
      .description('create a key and show it once')
      .requiredOption('--name <name>', 'for people; need not be unique', keyName),
  )
    .option(
      '--expires <duration>',
      'expiry, such as 90d, 24h or 30m, or never (default: never)',
      durationOrNever,
    )
    .action(async (options: KeyOptions & { name: string }) => {
      const limits = limitsOf(keys, options);
      await withKeyring(async (keyring, nowMs, redis) => {
        const key = makeKey();
        const expiresAtMs = typeof options.expires === 'number' ? nowMs + options.expires : undefined;
        const record = await keyring.register(
          key,
          newKey(options.name, fieldsOf(options, limits), expiresAtMs),
          nowMs,
        );
        print(
          keys,
          { key, ...keyBody(record, nowMs) },
          () => `${key}\nKeep it safe: only its hash is stored. Its id is ${record.id}.`,
        );
        await recordChange(redis, 'Key created', record.id);
      });
    });

  addKeyOptions(
    keys
      .command('update')
      .description('change what a key may do; the next request sees it')
      .argument('<id>', 'key id, as shown by `keys list`', keyId)
      .option('--name <name>', 'for people; need not be unique', keyName),
  )
    .option('--expires <duration>', 'expiry from now, such as 90d, 24h or 30m, or never', durationOrNever)
    .action(async (id: string, options: KeyOptions) => {
      const limits = limitsOf(keys, options);
      await withKeyring(async (keyring, nowMs, redis) => {
        const changes: KeyChanges = {
          ...(options.name === undefined ? {} : { name: options.name }),
          ...fieldsOf(options, limits),
          ...(options.expires === undefined
            ? {}
            : { expiresAtMs: options.expires === NEVER ? null : nowMs + options.expires }),
        };
        if (Object.keys(changes).length === 0)
          keys.error('error: nothing to change; set at least one option', { exitCode: 2 });
        const record = found(id, await keyring.update(id, changes));
        await recordChange(redis, 'Key changed', id);
        print(keys, keyBody(record, nowMs), () => keyTable([keyBody(record, nowMs)]));
      });
    });

  keys
    .command('list')
    .description('list all keys, without their secrets')
    .action(() =>
      withKeyring(async (keyring, nowMs) => {
        const { records: all, unreadable } = await keyring.list();
        const records = all.map((record) => keyBody(record, nowMs));
        for (const id of unreadable)
          process.stderr.write(`sluice: skipped the malformed record of key ${id}\n`);
        print(keys, records, () =>
          records.length === 0
            ? `No keys. Create one with: ${commandName()} keys create --name NAME`
            : keyTable(records),
        );
      }),
    );

  keys
    .command('revoke')
    .description('revoke a key, at once and permanently')
    .argument('<id>', 'key id, as shown by `keys list`', keyId)
    .action((id: string) =>
      withKeyring(async (keyring, nowMs, redis) => {
        const { record, revoked } = found(id, await keyring.revoke(id, nowMs));
        if (revoked) await recordChange(redis, 'Key revoked', id);
        print(keys, keyBody(record, nowMs), () => `Revoked ${record.id} (${record.name})`);
      }),
    );

  keys
    .command('rotate')
    .description('give a key a new secret and show it once; its id, limits and jobs stay')
    .argument('<id>', 'key id, as shown by `keys list`', keyId)
    .option(
      '--grace <duration>',
      'how long the old secret stays valid, such as 24h (default: it ends at once)',
      duration,
    )
    .action((id: string, { grace = 0 }: { grace?: number }) =>
      withKeyring(async (keyring, nowMs, redis) => {
        const { key, record } = found(id, await keyring.rotate(id, grace, nowMs));
        const body = keyBody(record, nowMs);
        const until = body.previous_secret_until;
        print(
          keys,
          { key, ...body },
          () =>
            `${key}\nKeep it safe: only its hash is stored. The old secret ${until ? `is valid until ${until}` : 'is not valid any more'}.`,
        );
        await recordChange(redis, 'Key rotated', id);
      }),
    );

  keys
    .command('webhook-secret')
    .description('show the secret that webhooks of a key are signed with; create it if the key has none')
    .argument('<id>', 'key id, as shown by `keys list`', keyId)
    .option('--new', 'replace it; the old one is no longer valid')
    .action((id: string, { new: renew = false }: { new?: boolean }) =>
      withKeyring(async (keyring, _nowMs, redis) => {
        const before = found(id, await keyring.read(id)).webhookSecret;
        const secret = found(id, await keyring.webhookSecret(id, renew));
        print(keys, { key_id: id, webhook_secret: secret }, () => secret);
        if (secret !== before) await recordChange(redis, 'Signing secret created', id);
      }),
    );

  keys
    .command('usage')
    .description('show the usage of a key by day (UTC), for up to 90 days')
    .argument('<id>', 'key id, as shown by `keys list`', keyId)
    .action((id: string) =>
      withKeyring(async (keyring, _nowMs, redis) => {
        found(id, await keyring.read(id));
        const days = await new Usage(redis).read(id);
        print(keys, { key_id: id, days }, () =>
          days.length === 0
            ? 'No usage of this key in the last 90 days'
            : table(
                ['DATE', 'REQUESTS', 'TEXTS', 'REFUSED'],
                days.map((day) => [day.date, ...[day.requests, day.texts, day.refused].map(String)]),
              ),
        );
      }),
    );

  addKeyBackupCommands(keys);

  keys
    .command('development', { hidden: true })
    .description('register the development key of this folder, for npm start')
    .action(() =>
      withKeyring(async (keyring, nowMs, redis) => {
        const { SLUICE_DEV_KEY, DATA_DIR } = readSettings(process.env);
        const files = { generated: join(DATA_DIR, 'dev-key'), supplied: join(DATA_DIR, 'dev-key.supplied') };
        const { key, record, created, keyFile } = await developmentKey(keyring, SLUICE_DEV_KEY, files, nowMs);
        print(keys, { key, key_file: keyFile, ...keyBody(record, nowMs) }, () => key);
        if (created) await recordChange(redis, 'Key created', record.id);
      }),
    );

  keys
    .command('ensure')
    .description(
      'create a key if no key has this name, and store it in a file: the first key of a deployment',
    )
    .requiredOption(
      '--name <name>',
      'name of the key; if several live keys have it, the oldest is used',
      keyName,
    )
    .requiredOption('--key-file <file>', 'file for the key, readable only by its owner')
    .action(({ name, keyFile }: { name: string; keyFile: string }) =>
      withKeyring(async (keyring, nowMs, redis) => {
        const { key, record, created } = await ensure(keyring, name, keyFile, nowMs);
        print(keys, { key, ...keyBody(record, nowMs) }, () => key);
        if (created) await recordChange(redis, 'Key created', record.id);
      }),
    );
}

/**
 * The key that `npm start` shows: the supplied one, or the one in the file, which is created if necessary. The other
 * development keys of the folder expire. Using one again removes its expiry.
 * @param files of the generated and of the supplied key
 * @throws CliError if the supplied key is revoked
 */
async function developmentKey(
  keyring: Keyring,
  supplied: string | undefined,
  files: { generated: string; supplied: string },
  nowMs: number,
): Promise<{ key: string; record: KeyRecord; created: boolean; keyFile: string }> {
  const before = [await readText(files.generated), await readText(files.supplied)];
  const keyFile = supplied === undefined ? files.generated : files.supplied;
  if (supplied !== undefined) await replaceKeyFile(keyFile, supplied);
  const kept = await readKeyFile(keyFile);
  const known = kept === undefined ? undefined : await keyring.find(kept, nowMs);
  if (known !== undefined && known.revokedAtMs === undefined && !isLive(known, nowMs)) {
    await keyring.update(known.id, { expiresAtMs: null });
  }
  if (known?.revokedAtMs !== undefined && supplied !== undefined) {
    throw new CliError('SLUICE_DEV_KEY: this key was revoked; choose another one');
  }
  // The name is used only if the file contains no key. It is new then, because the secret of an old key is lost.
  const name = `development-${randomBytes(4).toString('hex')}`;
  const { key, record, created } = await ensure(keyring, name, keyFile, nowMs);
  for (const other of before) {
    if (other === '' || other === key) continue;
    const replaced = await keyring.find(other, nowMs);
    if (replaced && isLive(replaced, nowMs)) await keyring.update(replaced.id, { expiresAtMs: nowMs });
  }
  return { key, record, created, keyFile };
}

/**
 * Ensures that a name has a live key whose secret is in the file.
 * @param name used if the file contains no live key
 * @throws CliError if the name has a key, but the file does not contain its secret
 */
async function ensure(
  keyring: Keyring,
  name: string,
  keyFile: string,
  nowMs: number,
): Promise<{ key: string; record: KeyRecord; created: boolean }> {
  const kept = await readKeyFile(keyFile);
  const inFile = await registerFromFile(keyring, name, kept, nowMs);
  if (inFile) return { ...inFile, created: false };
  const { records } = await keyring.list();
  const named = records.find((record) => record.name === name && isLive(record, nowMs));
  if (named !== undefined) {
    // Another process that does the same at this moment may have been first.
    const other = await registerFromFile(keyring, name, await readKeyFile(keyFile), nowMs);
    if (other) return { ...other, created: false };
    throw new CliError(
      `"${name}" has the key ${named.id}, but ${keyFile} does not contain its secret. ` +
        `Restore the file, or revoke the key (${commandName()} keys revoke ${named.id}) and try again.`,
    );
  }
  const key = await writeKeyFile(keyFile, makeKey(), kept);
  return { key, record: await keyring.register(key, { name }, nowMs), created: true };
}

/** Registers the key from the file; undefined if it is revoked, expired or rotated. */
async function registerFromFile(keyring: Keyring, name: string, kept: string | undefined, nowMs: number) {
  if (kept === undefined) return undefined;
  try {
    const record = await keyring.register(kept, { name }, nowMs);
    return isLive(record, nowMs) ? { key: kept, record } : undefined;
  } catch (error) {
    // The key was rotated, so the secret in the file is not valid any more.
    if (error instanceof KeyTaken) return undefined;
    throw error;
  }
}

/** @throws CliError for undefined */
function found<T>(id: string, value: T | undefined): T {
  if (value === undefined) throw new CliError(`No key has the id ${id}`);
  return value;
}

function keyTable(records: readonly KeyBody[]): string {
  return table(
    ['ID', 'STATUS', 'SCOPES', 'LIMIT', 'CREATED', 'EXPIRES', 'LAST USED', 'NAME'],
    records.map((record) => [
      record.key_id,
      record.status,
      record.scopes.join(','),
      record.limits
        .map(
          ({ limit, window_seconds, unit }) =>
            `${limit}${unit === 'requests' ? '' : ` ${unit}`}/${window_seconds}s`,
        )
        .join(' ') || 'default',
      record.created_at,
      record.expires_at ?? 'never',
      record.last_used_at ?? 'never',
      record.name,
    ]),
  );
}

/** The fields of a new key. */
const newKey = (
  name: string,
  { webhookUrl: url, ...fields }: ReturnType<typeof fieldsOf>,
  expiresAtMs: number | undefined,
) => ({ name, ...fields, webhookUrl: url ?? undefined, expiresAtMs });

/** The options as fields of a record. */
function fieldsOf({ bulk, scope, webhook }: KeyOptions, limits: Limit[] | undefined) {
  return {
    ...(scope ? { scopes: scope } : {}),
    ...(limits ? { limits } : {}),
    ...(bulk === undefined ? {} : { bulkLimit: bulk }),
    ...(webhook === undefined ? {} : { webhookUrl: webhook === NONE ? null : webhook }),
  };
}

/** Each `--limit` with its `--window`. An invalid pair ends the command. */
function limitsOf(keys: Command, { limit = [], window = [], unit = [] }: KeyOptions): Limit[] | undefined {
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

function keyName(text: string): string {
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

function duration(text: string): number {
  try {
    return parseDuration(text);
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}

const durationOrNever = (text: string) => (text === NEVER ? NEVER : duration(text));

function keyId(text: string): string {
  if (keyIdSchema.safeParse(text).success) return text;
  throw new InvalidArgumentError('A key id has 12 hex digits.');
}
