import { link, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { CliError } from './cliError.js';

/** What a header field can carry: printable, on one line. */
const KEY = /^\P{C}{1,256}$/u;

const codeOf = (error: unknown) => (error as NodeJS.ErrnoException).code;

/**
 * The key in a file; undefined when there is no such file or nothing in it.
 * @throws CliError when what is in it can be no key
 */
export async function readKeyFile(file: string): Promise<string | undefined> {
  try {
    const text = (await readFile(file, 'utf8')).trim();
    if (text !== '' && !KEY.test(text)) throw new CliError(`${file} does not hold a key`);
    return text === '' ? undefined : text;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/**
 * Writes a key to a file that its owner alone can read. Of several that do it at once one wins, and the file is never
 * there half-written.
 * @param replaces the key that the file holds, which gives way; undefined for a file that is not there
 * @returns the key that the file holds now
 */
export async function writeKeyFile(file: string, key: string, replaces: string | undefined): Promise<string> {
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  const fresh = `${file}.${process.pid}`;
  await writeFile(fresh, `${key}\n`, { mode: 0o600 });
  try {
    if (replaces !== undefined && (await readKeyFile(file)) === replaces) await rename(fresh, file);
    else await link(fresh, file);
    return key;
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error;
    const winner = await readKeyFile(file);
    if (winner !== undefined) return winner;
    // Somebody's empty file.
    await rename(fresh, file);
    return key;
  } finally {
    await rm(fresh, { force: true });
  }
}
