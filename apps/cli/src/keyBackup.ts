import { readFile, rm, writeFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { exportKeys, importKeys, keyBackupSchema } from '@sluice/shared';
import type { Command } from 'commander';
import * as z from 'zod';
import { CliError, systemReason, UsageError } from './cliError.js';
import { recordChange, withKeyring } from './keyring.js';
import { commandName, print } from './terminal.js';

/** Adds `keys export|import`. */
export function addKeyBackupCommands(keys: Command): void {
  keys
    .command('export')
    .description('print all keys as JSON, with the hashes of their secrets, for a backup')
    .option(
      '-o, --output <file>',
      'write them to this new file, readable only by its owner (default: standard output)',
    )
    .action(({ output }: { output?: string }) =>
      withKeyring(async (keyring) => {
        const { backup, withSigningSecret, unreadable } = await exportKeys(keyring);
        const json = `${JSON.stringify(backup, null, 2)}\n`;
        if (output === undefined || output === '-') process.stdout.write(json);
        else
          await writeFile(output, json, { mode: 0o600, flag: 'wx' }).catch(async (error: Error) => {
            // What a full disk has cut off is no backup.
            if (!('code' in error && error.code === 'EEXIST'))
              await rm(output, { force: true }).catch(() => {});
            throw new UsageError(
              'code' in error && error.code === 'EEXIST'
                ? `--output: ${output} already exists; choose another file`
                : `--output: cannot write ${output}: ${systemReason(error)}`,
            );
          });
        for (const id of unreadable)
          process.stderr.write(
            `sluice: key ${id} was not exported, because its record in Redis is malformed\n`,
          );
        if (withSigningSecret.length > 0)
          process.stderr.write(
            `sluice: the secrets that sign webhooks are not in the backup. After an import, run ${commandName()} keys webhook-secret ID for each of: ${withSigningSecret.join(', ')}\n`,
          );
        if (output !== undefined && output !== '-')
          print(keys, { keys: backup.keys.length }, () => `Exported ${backup.keys.length} keys to ${output}`);
      }),
    );

  keys
    .command('import')
    .description('restore the keys of a backup; keys that exist stay as they are')
    .argument('<file>', 'what `keys export` has written, or - for standard input')
    .action(async (file: string) => {
      const backup = await readBackup(file);
      await withKeyring(async (keyring, _nowMs, redis) => {
        const { imported, unchanged, different } = await importKeys(redis, keyring, backup, (id) =>
          recordChange(redis, 'Key imported', id),
        );
        print(
          keys,
          { imported, unchanged, different },
          () => `Imported: ${imported.length}. Already present: ${unchanged.length}`,
        );
        if (different.length > 0)
          throw new CliError(
            `These keys already exist with other values and were not changed: ${different.join(', ')}. To see them, run ${commandName()} keys list`,
          );
      });
    });
}

/** @throws UsageError if the file is not a backup */
async function readBackup(file: string) {
  const content = await (file === '-' ? text(process.stdin) : readFile(file, 'utf8')).catch(
    (error: Error) => {
      throw new UsageError(`Cannot read ${file}: ${systemReason(error)}`);
    },
  );
  let json: unknown;
  try {
    // Some editors begin a file with a byte order mark.
    json = JSON.parse(content.replace(/^\uFEFF/, ''));
  } catch {
    throw new UsageError(`${file} is not JSON; use a file that ${commandName()} keys export wrote`);
  }
  const parsed = keyBackupSchema.safeParse(json);
  if (!parsed.success)
    throw new UsageError(
      `${file} is not a backup of keys; use a file that ${commandName()} keys export wrote: ${z.prettifyError(parsed.error)}`,
    );
  return parsed.data;
}
