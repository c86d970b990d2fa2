import { readFile } from 'node:fs/promises';
import { extname } from 'node:path';
import { buffer } from 'node:stream/consumers';
import type { BatchItem, ItemBody } from '@sluice/client';
import { parse } from 'csv-parse/sync';
import { stringify } from 'csv-stringify/sync';
import { CliError } from './cliError.js';

/** A file of texts, and how its results are written beside them. */
export interface BatchFile {
  /** Its bytes, which tell whether it is the same file again. */
  bytes: Buffer;
  items: BatchItem[];
  /** The other columns of each row of a CSV file. */
  rows: Record<string, string>[] | undefined;
}

/**
 * Reads a file: `.csv` (texts in a column), `.ndjson` or `.jsonl` (a JSON string or `{"id", "text"}` a line), anything
 * else a text a line; `-` is standard input, a text a line. A byte order mark is no part of it.
 * @throws CliError that names what is wrong, with its line
 */
export async function readBatchFile(path: string, column: string): Promise<BatchFile> {
  const bytes = path === '-' ? await buffer(process.stdin) : await readFile(path);
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new CliError(`${path} is not UTF-8`);
  }
  const kind = extname(path).toLowerCase();
  if (kind === '.csv') {
    const rows = csvRows(path, text);
    if (rows.length > 0 && rows[0]?.[column] === undefined) {
      const columns = Object.keys(rows[0] ?? {}).join(', ');
      throw new CliError(`${path} has no column "${column}" (it has ${columns}); say --column`);
    }
    return { bytes, items: rows.map((row) => row[column] ?? ''), rows };
  }
  const lines = text.split(/\r?\n/);
  if (kind === '.ndjson' || kind === '.jsonl') {
    const items = lines.flatMap((line, i): BatchItem[] => {
      if (line.trim() === '') return [];
      try {
        // The server says what is wrong with it.
        return [JSON.parse(line)];
      } catch {
        throw new CliError(`${path}, line ${i + 1}: not JSON`);
      }
    });
    return { bytes, items, rows: undefined };
  }
  return { bytes, items: lines.filter((line) => line.trim() !== ''), rows: undefined };
}

function csvRows(path: string, text: string): Record<string, string>[] {
  try {
    return parse(text, { columns: true, skip_empty_lines: true, relax_column_count_less: true });
  } catch (error) {
    throw new CliError(`${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Results as NDJSON, a line each. */
export const asNdjson = (results: readonly ItemBody[]): string =>
  results.map((result) => `${JSON.stringify(result)}\n`).join('');

/** Results as CSV: the columns that the file had, then what became of each text. */
export function asCsv(results: readonly ItemBody[], rows: BatchFile['rows'], header: boolean): string {
  const lines = results.map((result) => ({
    ...(rows?.[result.index] ?? { ...(result.id === undefined ? {} : { id: result.id }), text: result.text }),
    sentiment: result.sentiment ?? '',
    confidence: result.confidence === undefined ? '' : String(result.confidence),
    error: result.error?.code ?? '',
  }));
  return stringify(lines, { header });
}
