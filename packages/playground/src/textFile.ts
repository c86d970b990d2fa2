import { parse } from 'csv-parse/sync';
import { stringify } from 'csv-stringify/sync';

/** A file whose rows may hold texts. */
export interface TextFile {
  name: string;
  /** Names of its columns; one without a name for a file with a text on each line. */
  columns: readonly string[];
  rows: readonly (readonly string[])[];
}

/** A problem of the file, for the user. */
export class FileProblem extends Error {
  override name = 'FileProblem';
}

const DELIMITERS: Readonly<Record<string, string>> = { csv: ',', tsv: '\t' };

/** Reads a text or CSV file in UTF-8, or in UTF-16 with a byte order mark. @throws FileProblem */
export async function readTextFile(file: File): Promise<TextFile> {
  const text = decoded(new Uint8Array(await file.arrayBuffer()));
  const extension = /\.(\w+)$/.exec(file.name)?.[1]?.toLowerCase() ?? '';
  const delimiter = DELIMITERS[extension];
  if (delimiter === undefined && extension !== 'txt')
    throw new FileProblem(
      `${file.name}: choose a .txt, .csv or .tsv file. The sluice command reads more formats`,
    );
  if (delimiter === undefined) {
    const lines = text.split(/\r?\n/);
    if (lines.at(-1) === '') lines.pop();
    return { name: file.name, columns: [''], rows: lines.map((line) => [line]) };
  }
  // A spreadsheet in a country with decimal commas writes semicolons.
  const [head = ''] = text.split('\n', 1);
  const semicolons = delimiter === ',' && !head.includes(',') && head.includes(';');
  let records: string[][];
  try {
    records = parse(text, { delimiter: semicolons ? ';' : delimiter, skip_empty_lines: true });
  } catch (error) {
    throw new FileProblem(`${file.name}: ${error instanceof Error ? error.message : String(error)}`);
  }
  const [columns, ...rows] = records;
  if (columns === undefined) throw new FileProblem(`${file.name} is empty`);
  return { name: file.name, columns, rows };
}

function decoded(bytes: Uint8Array): string {
  const [first, second] = bytes;
  const encoding =
    first === 0xff && second === 0xfe ? 'utf-16le' : first === 0xfe && second === 0xff ? 'utf-16be' : 'utf-8';
  try {
    return new TextDecoder(encoding, { fatal: true }).decode(bytes);
  } catch {
    throw new FileProblem(
      'The file is not valid UTF-8. Save it as UTF-8, or use the sluice command with --encoding',
    );
  }
}

/** Text of a CSV file. */
export const toCsv = (rows: readonly (readonly string[])[]): string => stringify(rows.map((row) => [...row]));
