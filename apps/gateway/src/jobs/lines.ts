import { pointer } from '../http/body.js';
import { Problem } from '../http/problem.js';

const NEWLINE = 0x0a;
const WHITE_SPACE: ReadonlySet<number> = new Set([0x20, 0x09, 0x0d, NEWLINE]);

/** The lines of a stream as bytes, without line ends. The last line may lack its end. */
export async function* linesOf(
  source: AsyncIterable<Buffer>,
  maxBytes: number,
  maxLineBytes: number,
): AsyncGenerator<Buffer> {
  let rest: Buffer[] = [];
  let restBytes = 0;
  let total = 0;
  let number = 1;
  for await (const part of source) {
    total += part.length;
    if (total > maxBytes) throw new Problem('body_too_large');
    let from = 0;
    for (let at = part.indexOf(NEWLINE); at !== -1; at = part.indexOf(NEWLINE, from)) {
      yield Buffer.concat([...rest, part.subarray(from, at)]);
      rest = [];
      restBytes = 0;
      number++;
      from = at + 1;
    }
    const tail = part.subarray(from);
    restBytes += tail.length;
    if (restBytes > maxLineBytes) throw invalidLine(number, `longer than ${maxLineBytes} bytes`);
    if (tail.length > 0) rest.push(tail);
  }
  if (restBytes > 0) yield Buffer.concat(rest);
}

/** Whether a line contains only white space as JSON defines it. */
export const isBlank = (bytes: Buffer) => bytes.every((byte) => WHITE_SPACE.has(byte));

/** @param path of the invalid field in the JSON value of the line */
export const invalidLine = (number: number, detail: string, path: readonly PropertyKey[] = []) =>
  new Problem('validation_failed', {
    detail: `Line ${number}: ${detail}`,
    errors: [{ pointer: pointer([number - 1, ...path]), detail }],
  });
