/** How a vector is shown in JSON. */
export type EncodingFormat = 'float' | 'base64';

/** Digits that may be enough for a float32; nine always are. */
const DIGITS = [7, 8];
const MOST_DIGITS = 9;

/** The number whose JSON is the shortest decimal that gives back a float32. */
function shortest(value: number): number {
  for (const digits of DIGITS) {
    const candidate = Number(value.toPrecision(digits));
    if (Math.fround(candidate) === value) return candidate;
  }
  return Number(value.toPrecision(MOST_DIGITS));
}

/** An output as JSON shows it: a vector as a list of numbers, or as base64 of little-endian float32. */
export function jsonOutput(output: unknown, format: EncodingFormat = 'float'): unknown {
  if (!(output instanceof Float32Array)) return output;
  if (format === 'float') return Array.from(output, shortest);
  return Buffer.from(output.buffer, output.byteOffset, output.byteLength).toString('base64');
}
