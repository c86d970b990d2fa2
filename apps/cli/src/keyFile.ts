import { chmod, mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';

/** The key in a file; undefined when there is no such file or nothing in it. */
export async function readKeyFile(file: string): Promise<string | undefined> {
  try {
    const text = (await readFile(file, 'utf8')).trim();
    return text === '' ? undefined : text;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/**
 * Writes a key to a file that its owner alone can read. Of two that do it at once for a new file, one wins.
 * @param replace whether a key that is there already gives way
 * @returns the key that the file holds now
 */
export async function writeKeyFile(file: string, key: string, replace: boolean): Promise<string> {
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  if (replace) {
    const fresh = `${file}.${process.pid}`;
    await writeFile(fresh, `${key}\n`, { mode: 0o600 });
    await chmod(fresh, 0o600);
    await rename(fresh, file);
    return key;
  }
  try {
    await writeFile(file, `${key}\n`, { mode: 0o600, flag: 'wx' });
    return key;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    return (await readKeyFile(file)) ?? writeKeyFile(file, key, true);
  }
}
