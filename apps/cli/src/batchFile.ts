import { readFile } from 'node:fs/promises';
import { extname } from 'node:path';
import { buffer } from 'node:stream/consumers';
import type { BatchItem, ItemBody } from '@sluice/client';
import { parse } from 'csv-parse/sync';
import { stringify } from 'csv-stringify/sync';
import { z } from 'zod';
import { CliError } from './cliError.js';

/** A file of texts, and how its results are written beside them. */
export interface BatchFile {
  /** Its bytes, which tell whether it is the same file again. */
  bytes: Buffer;
  items: BatchItem[];
  /** The line that each item begins in, from 1. */
  lines: number[];
  /** Of a CSV file: its columns, and the fields of each row. */
  table: { columns: string[]; rows: string[][] } | undefined;
}

const recordsSchema = z.array(
  z.object({ record: z.array(z.string()), info: z.object({ lines: z.number() }) }),
);

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
  if (kind === '.csv') return { bytes, ...readCsv(path, text, column) };
  const isJson = kind === '.ndjson' || kind === '.jsonl';
  const items: BatchItem[] = [];
  const lines: number[] = [];
  for (const [i, line] of text.split(/\r?\n/).entries()) {
    if (line.trim() === '') continue;
    lines.push(i + 1);
    items.push(isJson ? readJsonLine(line, `${path}, line ${i + 1}`) : line);
  }
  return { bytes, items, lines, table: undefined };
}

function readJsonLine(line: string, place: string): BatchItem {
  try {
    // The server says what else is wrong with it.
    return JSON.parse(line);
  } catch {
    throw new CliError(`${place}: not JSON`);
  }
}

function readCsv(path: string, text: string, column: string): Omit<BatchFile, 'bytes'> {
  let records: z.infer<typeof recordsSchema>;
  try {
    records = recordsSchema.parse(
      parse(text, { info: true, skip_empty_lines: true, relax_column_count: true }),
    );
  } catch (error) {
    throw new CliError(`${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
  const [header, ...body] = records;
  const columns = header?.record ?? [];
  const at = columns.indexOf(column);
  if (at === -1)
    throw new CliError(`${path} has no column "${column}" (it has ${columns.join(', ')}); say --column`);
  return {
    items: body.map(({ record }) => record[at] ?? ''),
    // What csv-parse tells is the line that a record ends in.
    lines: body.map(({ record, info }) => info.lines - record.join('').split('\n').length + 1),
    table: { columns, rows: body.map(({ record }) => record) },
  };
}

/** Results as NDJSON, a line each. */
export const asNdjson = (results: readonly ItemBody[]): string =>
  results.map((result) => `${JSON.stringify(result)}\n`).join('');

/** Results as CSV: the columns that the file had, as they were, then what became of each text. */
export function asCsv(results: readonly ItemBody[], table: BatchFile['table'], header: boolean): string {
  const columns = table?.columns ?? ['id', 'text'];
  const own = ['sentiment', 'confidence', 'error'].map((name) =>
    columns.includes(name) ? `sluice_${name}` : name,
  );
  const rows = results.map((result) => {
    const given = table ? (table.rows[result.index] ?? []) : [result.id ?? '', result.text];
    return [
      ...columns.map((_, i) => given[i] ?? ''),
      result.sentiment ?? '',
      result.confidence === undefined ? '' : String(result.confidence),
      result.error?.code ?? '',
    ];
  });
  return stringify(header ? [[...columns, ...own], ...rows] : rows);
}
