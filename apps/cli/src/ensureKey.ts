import { randomBytes } from 'node:crypto';
import { isLive, type KeyRecord, type Keyring, KeyTaken, makeKey } from '@sluice/shared';
import { CliError } from './cliError.js';
import { readKeyFile, readText, replaceKeyFile, writeKeyFile } from './keyFile.js';
import { commandName } from './terminal.js';

/**
 * The key that `npm start` shows: the supplied one, or the one in the file, which is created if necessary. The other
 * development keys of the folder expire. Using one again removes its expiry.
 * @param files of the generated and of the supplied key
 * @throws CliError if the supplied key is revoked
 */
export async function developmentKey(
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
  const { key, record, created } = await ensureKey(keyring, name, keyFile, nowMs);
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
export async function ensureKey(
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
