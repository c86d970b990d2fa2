import { readFile } from 'node:fs/promises';
import { extname } from 'node:path';
import { buffer } from 'node:stream/consumers';
import type { BatchItem } from '@sluice/client';
import { batchLine, batchRequestSchema, itemIdSchema, textSchema } from '@sluice/contract';
import { json } from '@sluice/shared';
import { columnAt, LINE_END, readLines, readTable, type Table } from '@sluice/tables';
import * as z from 'zod';
import { CliError, systemReason } from './cliError.js';
import { decode } from './encoding.js';

/** Formats of a file of texts. */
export const fileFormats = ['txt', 'csv', 'tsv', 'json', 'ndjson'] as const;
export type FileFormat = (typeof fileFormats)[number];

const FORMAT_OF: Readonly<Record<string, FileFormat>> = {
  '.txt': 'txt',
  '.csv': 'csv',
  '.tsv': 'tsv',
  '.tab': 'tsv',
  '.json': 'json',
  '.ndjson': 'ndjson',
  '.jsonl': 'ndjson',
};

/** How to read a file. */
export interface ReadOptions {
  /** Label of an encoding; undefined: UTF-8, or UTF-16 with a byte order mark. */
  encoding?: string | undefined;
  /** Name of the column with the texts in a csv or tsv file. */
  column?: string | undefined;
  /** Character between the fields of a csv or tsv file; undefined: by the `sep=` line or the header. */
  delimiter?: string | undefined;
  /** The server's maximum length of a text, in Unicode characters. */
  maxTextChars: number;
  /** Schema of the inputs of the model's task. */
  input: z.ZodType;
}

/** One row of a file: an item, or the reason why its text cannot be used. */
export interface FileRow {
  /** Where the row is in the file, such as `line 3`. */
  place: string;
  /** The text of the row. Undefined for a JSON value without a text. */
  text: string | undefined;
  /** The caller's own id, if it gave a valid one. */
  id?: string | number | undefined;
  item: { usable: true; value: BatchItem } | { usable: false; reason: string };
}

/** The contents of a file of texts. */
export interface BatchFile {
  rows: FileRow[];
  /** Whether the file begins with a byte order mark. */
  bom: boolean;
  /** For a csv or tsv file. */
  table: Table | undefined;
}

/** Schema of the first line of an NDJSON file that says what applies to all of it. */
const aboutSchema = z.object({
  batch: z.object({
    model: z.string().optional(),
    parameters: z.record(z.string(), z.unknown()).optional(),
  }),
});
/** What an NDJSON file says of all its rows. */
export type About = z.infer<typeof aboutSchema>['batch'];

/** What the first line of an NDJSON file says of all its rows; empty if it is a row. */
export async function readAbout(path: string, format: FileFormat): Promise<About> {
  if (format !== 'ndjson' || path === '-') return {};
  const text = await readFile(path, 'utf8').catch(() => '');
  const [first = ''] = text.replace(/^\uFEFF/, '').split(LINE_END, 1);
  return json(aboutSchema).safeParse(first).data?.batch ?? {};
}

/** The format of a file by its name; undefined if the name does not tell it. */
export function formatOf(path: string): FileFormat | undefined {
  return path === '-' ? 'txt' : FORMAT_OF[extname(path).toLowerCase()];
}

/**
 * Reads a file of texts, or standard input for `-`. Lines end with LF, CRLF or CR.
 * - `txt`: a text per line. Blank lines keep their place, except at the end of the file.
 * - `csv`, `tsv`: a text per row, in a column that the header names.
 * - `json`: a list of texts, or of `{"id", "text"}` or `{"id", "input"}`.
 * - `ndjson`: one of these per line; blank lines are skipped.
 * @throws CliError if the file as a whole cannot be read; an unusable row is part of the result
 */
export async function readBatchFile(
  path: string,
  format: FileFormat,
  options: ReadOptions,
): Promise<BatchFile> {
  const bytes = await (path === '-' ? buffer(process.stdin) : readFile(path)).catch((error: unknown) => {
    throw new CliError(`Cannot read ${path}: ${systemReason(error)}`);
  });
  const { text, bom } = decode(path, bytes, options.encoding);
  if (format === 'csv' || format === 'tsv') {
    const { table, lines } = readTable(path, text, format, options);
    const at = columnAt(path, table, options.column);
    const rows = table.rows.map((row, i) => textRow(row[at] ?? '', `line ${lines[i]}`, options));
    return { rows, bom, table };
  }
  const readers = { txt: readTexts, json: readList, ndjson: readJsonLines };
  return { rows: readers[format](path, text, options), bom, table: undefined };
}

const readTexts = (_path: string, text: string, options: ReadOptions): FileRow[] =>
  readLines(text).map((line, i) => textRow(line, `line ${i + 1}`, options));

function readJsonLines(_path: string, text: string, options: ReadOptions): FileRow[] {
  return text.split(LINE_END).flatMap((line, i) => {
    if (line.trim() === '') return [];
    if (i === 0 && json(aboutSchema).safeParse(line).success) return [];
    const place = `line ${i + 1}`;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch {
      return [{ place, text: line, item: { usable: false as const, reason: 'The line is not valid JSON' } }];
    }
    return [jsonRow(value, place, options)];
  });
}

function readList(path: string, text: string, options: ReadOptions): FileRow[] {
  let values: unknown;
  try {
    values = JSON.parse(text);
  } catch (error) {
    throw new CliError(
      `${path} is not valid JSON: ${error instanceof Error ? error.message : String(error)}. ` +
        'For one JSON value per line, set --format ndjson',
    );
  }
  if (!Array.isArray(values)) {
    throw new CliError(`${path} is not a JSON list of texts, such as ["good", "bad"]`);
  }
  return values.map((value, i) => jsonRow(value, `entry ${i + 1}`, options));
}

function textRow(text: string, place: string, { maxTextChars, input }: ReadOptions): FileRow {
  const reason = [textSchema(maxTextChars), input].map((schema) => reasonOf(schema, text)).find(Boolean);
  return {
    place,
    text,
    item: reason === undefined ? { usable: true, value: text } : { usable: false, reason },
  };
}

function jsonRow(value: unknown, place: string, options: ReadOptions): FileRow {
  const { maxTextChars, input } = options;
  if (typeof value === 'string') return textRow(value, place, options);
  const text = value !== null && typeof value === 'object' && 'text' in value ? value.text : undefined;
  const id = itemIdSchema.safeParse(
    value !== null && typeof value === 'object' && 'id' in value ? value.id : undefined,
  ).data;
  const row = { place, text: typeof text === 'string' ? text : undefined, id };
  const isInput = value !== null && typeof value === 'object' && 'input' in value;
  if (batchRequestSchema.safeParse(value).success)
    return {
      ...row,
      item: {
        usable: false,
        reason:
          'This is a request of an OpenAI batch. Give a .jsonl file whose first line is one, not standard input',
      },
    };
  const line = batchLine({ maxTextChars, models: [] });
  const parsed = (isInput ? line.input : line.object).safeParse(value);
  if (parsed.success) {
    const { data } = parsed;
    const reason = reasonOf(input, 'text' in data ? data.text : data.input);
    if (reason !== undefined) return { ...row, item: { usable: false, reason } };
    const isPlain = id === undefined && 'text' in data;
    return { ...row, item: { usable: true, value: isPlain ? data.text : data } };
  }
  const [issue] = parsed.error.issues;
  const field = issue?.path.join('.');
  return { ...row, item: { usable: false, reason: `${field ? `"${field}": ` : ''}${issue?.message}` } };
}

/** Why a value does not match a schema; undefined if it does. */
function reasonOf(schema: z.ZodType, value: unknown): string | undefined {
  const [issue] = schema.safeParse(value).error?.issues ?? [];
  if (issue === undefined) return undefined;
  const field = issue.path.join('.');
  return field === '' ? issue.message : `"${field}": ${issue.message}`;
}
