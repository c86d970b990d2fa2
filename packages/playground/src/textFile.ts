import { DEFAULT_COLUMN, readLines, readTable, type Table, TableError } from '@sluice/tables';

/** A file whose rows may hold texts. */
export interface TextFile {
  name: string;
  /** Of a csv or tsv file. */
  table: Table | undefined;
  /** The cells of each row; one cell in a file with a text on each line. */
  rows: readonly (readonly string[])[];
  /** Whether the file begins with a byte order mark. */
  bom: boolean;
}

/** The file cannot be used. */
export class FileProblem extends Error {
  override name = 'FileProblem';
}

const FORMATS: Readonly<Record<string, 'csv' | 'tsv' | 'txt'>> = {
  csv: 'csv',
  tsv: 'tsv',
  tab: 'tsv',
  txt: 'txt',
};

/** Reads a text or CSV file in UTF-8, or in UTF-16 with a byte order mark. @throws FileProblem */
export async function readTextFile(file: File): Promise<TextFile> {
  const { name } = file;
  const format = FORMATS[/\.(\w+)$/.exec(name)?.[1]?.toLowerCase() ?? ''];
  if (format === undefined)
    throw new FileProblem(
      `${name}: unsupported file type. Choose a .txt, .csv or .tsv file; the sluice command reads more formats.`,
    );
  const { text, bom } = decoded(new Uint8Array(await file.arrayBuffer()));
  if (format === 'txt') return { name, table: undefined, rows: readLines(text).map((line) => [line]), bom };
  try {
    const { table } = readTable(name, text, format, {});
    return { name, table, rows: table.rows, bom };
  } catch (error) {
    throw error instanceof TableError ? new FileProblem(error.message) : error;
  }
}

/** The place of the column that probably has the texts. */
export const usualColumn = ({ columns }: Table): number =>
  Math.max(
    0,
    columns.findIndex((name) => name.toLowerCase() === DEFAULT_COLUMN),
  );

function decoded(bytes: Uint8Array): { text: string; bom: boolean } {
  const [first, second, third] = bytes;
  const encoding =
    first === 0xff && second === 0xfe ? 'utf-16le' : first === 0xfe && second === 0xff ? 'utf-16be' : 'utf-8';
  try {
    return {
      text: new TextDecoder(encoding, { fatal: true }).decode(bytes),
      bom: encoding !== 'utf-8' || (first === 0xef && second === 0xbb && third === 0xbf),
    };
  } catch {
    throw new FileProblem(
      'The file is not valid UTF-8. Save it as UTF-8, or use the sluice command with --encoding',
    );
  }
}
