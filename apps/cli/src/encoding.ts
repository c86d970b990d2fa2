import iconv from 'iconv-lite';
import { CliError, UsageError } from './cliError.js';

/** Byte order marks by their encoding. */
const MARKS = [
  { encoding: 'utf-8', bytes: Buffer.from([0xef, 0xbb, 0xbf]) },
  { encoding: 'utf-16le', bytes: Buffer.from([0xff, 0xfe]) },
  { encoding: 'utf-16be', bytes: Buffer.from([0xfe, 0xff]) },
] as const;

/** Other spellings of the encodings that have a byte order mark. */
const ALIASES: Readonly<Record<string, string>> = {
  utf8: 'utf-8',
  utf16: 'utf-16',
  utf16le: 'utf-16le',
  utf16be: 'utf-16be',
  'ucs-2': 'utf-16le',
  ucs2: 'utf-16le',
};

/**
 * Decodes a file. A byte order mark names its encoding; without one it is UTF-8 unless `encoding` is given.
 * @param encoding label such as `windows-1252`, `shift_jis` or `utf-16le`
 * @returns the text, and whether the file began with a byte order mark, which is not part of the text
 * @throws CliError if the bytes are not valid in the encoding; UsageError for an unknown label, or one that contradicts
 *   the byte order mark
 */
export function decode(
  path: string,
  bytes: Buffer,
  encoding: string | undefined,
): { text: string; bom: boolean } {
  const label = encoding?.toLowerCase();
  const mark = MARKS.find((candidate) => bytes.subarray(0, candidate.bytes.length).equals(candidate.bytes));
  let wanted = label === undefined ? undefined : (ALIASES[label] ?? label);
  // Its byte order mark decides; without one it is little-endian, as Windows writes it.
  if (wanted === 'utf-16') wanted = mark?.encoding === 'utf-16be' ? 'utf-16be' : 'utf-16le';
  if (wanted !== undefined && !iconv.encodingExists(wanted)) {
    throw new UsageError(`--encoding: unknown encoding "${encoding}"; use a label such as windows-1252`);
  }
  if (mark && wanted !== undefined && wanted !== mark.encoding) {
    throw new UsageError(
      `--encoding: ${path} begins with the byte order mark of ${mark.encoding}; leave out --encoding`,
    );
  }
  const actual = wanted ?? mark?.encoding ?? 'utf-8';
  const bom = mark?.encoding === actual;
  const body = bom && mark ? bytes.subarray(mark.bytes.length) : bytes;
  const text = decodeStrictly(body, actual);
  if (text === undefined) {
    throw new CliError(
      `${path} is not valid ${actual.toUpperCase()}; save it as UTF-8, or name its encoding with --encoding`,
    );
  }
  if (text.includes('\0')) {
    throw new CliError(`${path} contains NUL characters; it may be UTF-16: set --encoding utf-16le`);
  }
  return { text, bom };
}

/** Returns undefined if some bytes are not valid. */
function decodeStrictly(bytes: Buffer, encoding: string): string | undefined {
  if (encoding === 'utf-8') {
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      return undefined;
    }
  }
  if (encoding.startsWith('utf-16') && bytes.length % 2 !== 0) return undefined;
  const text = iconv.decode(bytes, encoding, { stripBOM: false });
  return text.includes('\uFFFD') || !text.isWellFormed() ? undefined : text;
}
