import { link, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { suppliedKeySchema } from '@sluice/contract';
import { CliError } from './cliError.js';

const codeOf = (error: unknown) => (error as NodeJS.ErrnoException).code;

/**
 * Reads the key in a file; undefined if the file does not exist or is empty.
 * @throws CliError if the file contains something else, or other users can read it
 */
export async function readKeyFile(file: string): Promise<string | undefined> {
  try {
    const { mode } = await stat(file);
    // Windows has no such permissions.
    if (process.platform !== 'win32' && (mode & 0o077) !== 0)
      throw new CliError(`${file} can be read by other users of this machine; run: chmod 600 ${file}`);
    const text = (await readFile(file, 'utf8')).trim();
    if (text !== '' && !suppliedKeySchema.safeParse(text).success)
      throw new CliError(`${file} does not contain a key; delete the file, or name another one`);
    return text === '' ? undefined : text;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** The contents of a file of keys, whatever it is: an earlier version accepted other keys. Empty if there is no file. */
export async function readText(file: string): Promise<string> {
  return readFile(file, 'utf8').then(
    (text) => text.trim(),
    (error: unknown) => {
      if (codeOf(error) === 'ENOENT') return '';
      throw error;
    },
  );
}

/** Writes a key to a file that only its owner can read, whatever the file contains now. */
export async function replaceKeyFile(file: string, key: string): Promise<void> {
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  const temporary = `${file}.${process.pid}`;
  await writeFile(temporary, `${key}\n`, { mode: 0o600 });
  await rename(temporary, file);
}

/**
 * Writes a key to a file that only its owner can read. If several processes do it at once, one of them wins. The file is
 * never incomplete.
 * @param replaces the key that the file contains now, and which the new key replaces; undefined if the file contains no key
 * @returns the key that the file contains now
 */
export async function writeKeyFile(file: string, key: string, replaces: string | undefined): Promise<string> {
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  const temporary = `${file}.${process.pid}`;
  await writeFile(temporary, `${key}\n`, { mode: 0o600 });
  try {
    if (replaces !== undefined && (await readKeyFile(file)) === replaces) await rename(temporary, file);
    else await link(temporary, file);
    return key;
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error;
    const winner = await readKeyFile(file);
    if (winner !== undefined) return winner;
    // The file exists but is empty.
    await rename(temporary, file);
    return key;
  } finally {
    await rm(temporary, { force: true });
  }
}
