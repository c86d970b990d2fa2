import { access, constants, open, rename, rm, stat } from 'node:fs/promises';
import { dirname, extname, resolve } from 'node:path';
import { type FileResult, tableOf } from '@sluice/tables';
import type { BatchFile } from './batchFile.js';
import { CliError, systemReason, UsageError } from './cliError.js';

/** Results that are written at once. */
const RESULTS_PER_WRITE = 1_000;

/** @throws CliError if a file cannot be created there, before any work is done; UsageError if it is the input */
export async function checkWritable(out: string, path: string): Promise<void> {
  if (resolve(out) === resolve(path))
    throw new UsageError(`${out} is the input; set another file for the answers`);
  const existing = await stat(out).catch(() => undefined);
  if (existing?.isDirectory()) throw new CliError(`Cannot write ${out}: it is a folder`);
  const folder = await stat(dirname(out)).catch((error: unknown) => {
    throw new CliError(`Cannot write ${out}: ${systemReason(error)}`);
  });
  if (!folder.isDirectory()) throw new CliError(`Cannot write ${out}: ${dirname(out)} is not a folder`);
  await access(dirname(out), constants.W_OK).catch((error: unknown) => {
    throw new CliError(`Cannot write ${out}: ${systemReason(error)}`);
  });
}

/**
 * Writes results, NDJSON as they arrive.
 * @returns the number of results with an error
 */
export async function writeResults(
  results: AsyncIterable<FileResult>,
  out: string | undefined,
  { table, bom }: BatchFile,
): Promise<number> {
  const kind = extname(out ?? '').toLowerCase();
  const isTable = kind === '.csv' || kind === '.tsv';
  let errors = 0;
  let unwritten: FileResult[] = [];
  await writeTo(out, async (put) => {
    const flush = async () => {
      const text = unwritten.map((result) => `${JSON.stringify(result)}\n`).join('');
      unwritten = [];
      await put(text);
    };
    for await (const result of results) {
      if (result.error) errors++;
      unwritten.push(result);
      // Whether a table has a column for truncation is only known at the end.
      if (!isTable && unwritten.length === RESULTS_PER_WRITE) await flush();
    }
    if (isTable) await put(tableOf(unwritten, table, delimiterFor(kind, table), bom));
    else if (unwritten.length > 0) await flush();
  });
  return errors;
}

/** Writes lines as they arrive. @returns their number */
export async function writeLines(lines: AsyncIterable<string>, out: string | undefined): Promise<number> {
  let count = 0;
  await writeTo(out, async (put) => {
    for await (const line of lines) {
      await put(`${line}\n`);
      count++;
    }
  });
  return count;
}

/** Writes to standard output, or to a file under another name, which is renamed when it is complete. */
async function writeTo(
  out: string | undefined,
  fill: (put: (text: string) => Promise<void>) => Promise<void>,
): Promise<void> {
  const temporary = out === undefined ? undefined : `${out}.${process.pid}`;
  const file = temporary === undefined ? undefined : await open(temporary, 'w');
  try {
    await fill(async (text) => {
      if (file) await file.appendFile(text);
      else if (!process.stdout.write(text))
        await new Promise((resolve) => process.stdout.once('drain', resolve));
    });
    await file?.close();
    if (temporary !== undefined && out !== undefined) await rename(temporary, out);
  } catch (error) {
    await file?.close().catch(() => {});
    if (temporary !== undefined) await rm(temporary, { force: true });
    throw error;
  }
}

/** A csv file keeps the delimiter of its input, as the program that wrote the input expects it. */
function delimiterFor(kind: string, table: BatchFile['table']): string {
  if (kind === '.tsv') return '\t';
  return table === undefined || table.delimiter === '\t' ? ',' : table.delimiter;
}
