import type { JobResult } from '@sluice/client';
import { CsvError, type Options, parse } from 'csv-parse/sync';
import { stringify } from 'csv-stringify/sync';

/** A csv or tsv file. */
export interface Table {
  columns: string[];
  rows: string[][];
  delimiter: string;
  /** Whether the first line names the delimiter, as in `sep=;`, which Excel reads. */
  separatorLine: boolean;
}

/** Name of the column with the texts. */
export const DEFAULT_COLUMN = 'text';

/** Ends of lines. A file may mix them. */
const LINE_ENDS = ['\r\n', '\n', '\r'];
export const LINE_END = /\r\n|\n|\r/g;
const SEPARATOR_LINE = /^sep=([^\r\n])(?:\r\n|\n|\r|$)/i;
/** Delimiters that the header of a csv file may show, the most common first. */
const DELIMITERS = [',', ';', '\t', '|'];

/** A file cannot be read as a table. The message says where and why. */
export class TableError extends Error {
  override name = 'TableError';
}

/** A record with the text that it was read from. */
interface RawRecord {
  record: string[];
  raw: string;
}

/** Reads the records of a table, with the text of each. @throws CsvError */
function recordsOf(content: string, options: Options): RawRecord[] {
  // The types of the library do not know what `raw` changes.
  const parsed: unknown = parse(content, { ...options, raw: true, record_delimiter: LINE_ENDS });
  return Array.isArray(parsed) ? parsed.map(rawRecord) : [];
}

function rawRecord(value: unknown): RawRecord {
  if (typeof value === 'object' && value !== null && 'record' in value && 'raw' in value)
    if (Array.isArray(value.record)) return { record: value.record.map(String), raw: String(value.raw) };
  throw new TypeError('Not a record of csv-parse');
}

/**
 * Reads a table: its columns and rows, and the line in which each row begins. Empty lines are rows without a text, except at
 * both ends of the file.
 * @param column name of the column with the texts, which helps to find the delimiter
 * @throws TableError that names the error and its line
 */
export function readTable(
  path: string,
  text: string,
  format: 'csv' | 'tsv',
  {
    column = DEFAULT_COLUMN,
    delimiter: given,
  }: { column?: string | undefined; delimiter?: string | undefined },
): { table: Table; lines: number[] } {
  const [separatorLine = '', separator] = SEPARATOR_LINE.exec(text) ?? [];
  const content = text.slice(separatorLine.length);
  const delimiter = given ?? separator ?? (format === 'tsv' ? '\t' : delimiterOf(content, column));
  const firstLine = separatorLine === '' ? 1 : 2;
  const records = readRecords(path, content, delimiter, firstLine);
  const begins = firstLines(records).map((line) => line + firstLine - 1);
  // Unlike an empty field in quotes.
  const isBlank = ({ raw }: RawRecord) => raw.trim() === '';
  const headerAt = records.findIndex((record) => !isBlank(record));
  if (headerAt === -1) throw new TableError(`${path} has no header`);
  const end = records.findLastIndex((record) => !isBlank(record)) + 1;
  const columns = records[headerAt]?.record ?? [];
  const body = records.slice(headerAt + 1, end);
  const lines = begins.slice(headerAt + 1, end);
  for (const [i, { record }] of body.entries()) {
    const fields = record.findLastIndex((field) => field.trim() !== '') + 1;
    if (fields <= columns.length) continue;
    throw new TableError(
      `${path}, line ${lines[i]}: ${fields} fields, but the header has ${columns.length}. ` +
        `A field that contains ${nameOf(delimiter)} must be in double quotes`,
    );
  }
  const rows = body.map(({ record }) => record);
  return { table: { columns, rows, delimiter, separatorLine: separatorLine !== '' }, lines };
}

/** Reads a text on each line. Blank lines keep their place, except at the end of the file. */
export function readLines(text: string): string[] {
  const lines = text.split(LINE_END);
  return lines.slice(0, lines.findLastIndex((line) => line.trim() !== '') + 1);
}

const nameOf = (delimiter: string) => (delimiter === '\t' ? 'a tab' : `"${delimiter}"`);

/** The place of the column with the texts. @throws TableError */
export function columnAt(path: string, { columns }: Table, column: string = DEFAULT_COLUMN): number {
  const at = columns.indexOf(column);
  if (at === -1) {
    throw new TableError(
      `${path} has no column "${column}" (it has ${columns.map((name) => `"${name}"`).join(', ')}); ` +
        'set --column, or --delimiter if the columns are separated by another character',
    );
  }
  if (columns.lastIndexOf(column) !== at)
    throw new TableError(`${path} has several columns "${column}"; rename all but one, or set --column`);
  return at;
}

/** The delimiter with which the header has the column, or else the most columns. */
function delimiterOf(content: string, column: string): string {
  const headers = DELIMITERS.map((delimiter) => {
    try {
      const [header] = recordsOf(content, { delimiter, to: 1, skip_empty_lines: true });
      return { delimiter, columns: header?.record ?? [] };
    } catch {
      // With this delimiter the header is not well-formed.
      return { delimiter, columns: [] };
    }
  });
  const [widest] = [...headers].sort((one, other) => other.columns.length - one.columns.length);
  const found = headers.find(({ columns }) => columns.includes(column)) ?? widest;
  return found?.delimiter ?? ',';
}

/** @param to maximum number of records to read */
const parseRecords = (content: string, delimiter: string, to?: number): RawRecord[] =>
  recordsOf(content, { delimiter, relax_column_count: true, ...(to === undefined ? {} : { to }) });

function readRecords(path: string, content: string, delimiter: string, firstLine: number): RawRecord[] {
  try {
    return parseRecords(content, delimiter);
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    // csv-parse names the line in which it gave up, which may be far after the cause: the record after the good ones.
    const records: unknown = Reflect.get(error, 'records');
    const good = typeof records === 'number' ? records : 0;
    const line = firstLine + (good === 0 ? 0 : linesOf(parseRecords(content, delimiter, good)));
    const remedy =
      'A field that contains double quotes must be in double quotes, with each inner one doubled';
    throw new TableError(
      error.code === 'CSV_QUOTE_NOT_CLOSED'
        ? `${path}, line ${line}: the row has a double quote that is never closed. ${remedy}`
        : `${path}, line ${line}: a double quote is in the wrong place (${error.code}). ${remedy}`,
    );
  }
}

/** How many lines some records take, with the line ends inside quoted fields. */
const linesOf = (records: RawRecord[]) =>
  records.reduce(
    (sum, { record }) => sum + 1 + record.flatMap((field) => field.match(LINE_END) ?? []).length,
    0,
  );

/** The line in which each record begins, from 1. */
function firstLines(records: RawRecord[]): number[] {
  let line = 1;
  return records.map((record) => {
    const begins = line;
    line += linesOf([record]);
    return begins;
  });
}

/** The result of a row of a file; `index` is its place among the rows. A row without a usable text may have no `text`. */
export type FileResult = Omit<JobResult, 'text'> & { text?: string };

/** What a result adds to the columns of a file: the best label, or the output as JSON, and more. */
const CLASSIFIER_COLUMNS = ['sentiment', 'confidence'];
const OUTPUT_COLUMNS = ['output'];
const LAST_COLUMNS = ['truncated', 'error'];

/**
 * Results as CSV: the unchanged columns of the file, followed by the columns of the result. `truncated` is only there if
 * any text was truncated.
 * @param table of the input, if it is one
 * @param delimiter between the fields
 */
export function tableOf(
  results: readonly FileResult[],
  table: Table | undefined,
  delimiter: string,
  bom: boolean,
): string {
  const columns = table?.columns ?? ['id', 'text'];
  const anyTruncated = results.some(({ truncated }) => truncated);
  const hasBest = results.some(({ sentiment }) => sentiment !== undefined);
  // More than the best label.
  const hasMore = results.some(({ output, sentiment }) => {
    const isBest = Array.isArray(output) && output.length === 1 && sentiment !== undefined;
    return output !== undefined && !isBest;
  });
  const own = [
    ...(hasBest || !hasMore ? CLASSIFIER_COLUMNS : []),
    ...(hasMore ? OUTPUT_COLUMNS : []),
    ...LAST_COLUMNS,
  ].filter((name) => name !== 'truncated' || anyTruncated);
  const rows = results.map((result) => {
    const given = table
      ? (table.rows[result.index] ?? [])
      : [
          String(result.id ?? ''),
          result.text ?? (result.input === undefined ? '' : JSON.stringify(result.input)),
        ];
    const values: Readonly<Record<string, string>> = {
      sentiment: result.sentiment ?? '',
      confidence: result.confidence === undefined ? '' : String(result.confidence),
      output: result.output === undefined ? '' : JSON.stringify(result.output),
      truncated: result.truncated ? 'true' : '',
      error: result.error === undefined ? '' : `${result.error.code}: ${result.error.detail}`,
    };
    return [...columns.map((_, i) => given[i] ?? ''), ...own.map((name) => values[name] ?? '')];
  });
  const header = [...columns, ...own.map((name) => (columns.includes(name) ? `sluice_${name}` : name))];
  const separatorLine = table?.separatorLine && table.delimiter === delimiter ? `sep=${delimiter}\n` : '';
  return `${bom ? '\uFEFF' : ''}${separatorLine}${stringify([header, ...rows], { delimiter })}`;
}
