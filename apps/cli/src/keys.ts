import { join } from 'node:path';
import type { KeyBody } from '@sluice/contract';
import { type KeyChanges, keyBody, makeKey, readSettings, Usage } from '@sluice/shared';
import type { Command } from 'commander';
import { CliError } from './cliError.js';
import { developmentKey, ensureKey } from './ensureKey.js';
import { addKeyBackupCommands } from './keyBackup.js';
import {
  addKeyOptions,
  duration,
  durationOrNever,
  type KeyOptions,
  keyFields,
  keyId,
  keyLimits,
  keyName,
  NEVER,
} from './keyOptions.js';
import { recordChange, withKeyring } from './keyring.js';
import { table } from './table.js';
import { commandName, print } from './terminal.js';

/** Adds `keys create|update|list|revoke|rotate|webhook-secret|usage|export|import|ensure`. */
export function addKeysCommands(program: Command): void {
  const keys = program.command('keys').description('manage API keys');
  addCreate(keys);
  addUpdate(keys);
  addList(keys);
  addRevoke(keys);
  addRotate(keys);
  addWebhookSecret(keys);
  addUsage(keys);
  addKeyBackupCommands(keys);
  addDevelopment(keys);
  addEnsure(keys);
}

function addCreate(keys: Command): void {
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
      const limits = keyLimits(keys, options);
      await withKeyring(async (keyring, nowMs, redis) => {
        const key = makeKey();
        const expiresAtMs = typeof options.expires === 'number' ? nowMs + options.expires : undefined;
        const record = await keyring.register(
          key,
          newKey(options.name, keyFields(options, limits), expiresAtMs),
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
}

function addUpdate(keys: Command): void {
  addKeyOptions(
    keys
      .command('update')
      .description('change what a key may do; the next request sees it')
      .argument('<id>', 'key id, as shown by `keys list`', keyId)
      .option('--name <name>', 'for people; need not be unique', keyName),
  )
    .option('--expires <duration>', 'expiry from now, such as 90d, 24h or 30m, or never', durationOrNever)
    .action(async (id: string, options: KeyOptions) => {
      const limits = keyLimits(keys, options);
      await withKeyring(async (keyring, nowMs, redis) => {
        const changes: KeyChanges = {
          ...(options.name === undefined ? {} : { name: options.name }),
          ...keyFields(options, limits),
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
}

function addList(keys: Command): void {
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
}

function addRevoke(keys: Command): void {
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
}

function addRotate(keys: Command): void {
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
}

function addWebhookSecret(keys: Command): void {
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
}

function addUsage(keys: Command): void {
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
}

function addDevelopment(keys: Command): void {
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
}

function addEnsure(keys: Command): void {
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
        const { key, record, created } = await ensureKey(keyring, name, keyFile, nowMs);
        print(keys, { key, ...keyBody(record, nowMs) }, () => key);
        if (created) await recordChange(redis, 'Key created', record.id);
      }),
    );
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
  { webhookUrl: url, ...fields }: ReturnType<typeof keyFields>,
  expiresAtMs: number | undefined,
) => ({ name, ...fields, webhookUrl: url ?? undefined, expiresAtMs });
