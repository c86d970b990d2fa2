import { setImmediate } from 'node:timers/promises';

/** How a vector is shown in JSON. */
export type EncodingFormat = 'float' | 'base64';

/** Digits that may be enough for a float32; nine always are. */
const DIGITS = [7, 8];
const MOST_DIGITS = 9;
/** Vectors that are written as JSON before other requests go on. */
const VECTORS_AT_ONCE = 32;

/** The number whose JSON is the shortest decimal that gives back a float32. */
function shortest(value: number): number {
  for (const digits of DIGITS) {
    const candidate = Number(value.toPrecision(digits));
    if (Math.fround(candidate) === value) return candidate;
  }
  return Number(value.toPrecision(MOST_DIGITS));
}

/** A vector as the shortest decimals that give back its numbers. */
export const numbersOf = (vector: Float32Array): number[] => Array.from(vector, shortest);

/** A vector as base64 of little-endian float32. */
export const base64Of = (vector: Float32Array): string =>
  Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString('base64');

/** An output as JSON shows it: vectors as lists of numbers or as base64, everything else as it is. */
export function jsonOutput(output: unknown, format: EncodingFormat = 'float'): unknown {
  if (output instanceof Float32Array) return format === 'float' ? numbersOf(output) : base64Of(output);
  if (Array.isArray(output) && output[0] instanceof Float32Array)
    return output.map((vector) => jsonOutput(vector, format));
  return output;
}

/** Shows each output. Vectors take long to write as decimals, so other requests go on in between. */
export async function showEach<Output, Shown>(
  outputs: readonly Output[],
  show: (output: Output) => Shown,
): Promise<Shown[]> {
  const shown: Shown[] = [];
  let vectors = 0;
  for (const output of outputs) {
    shown.push(show(output));
    vectors += Array.isArray(output) ? output.length : 1;
    if (vectors < VECTORS_AT_ONCE) continue;
    vectors = 0;
    await setImmediate();
  }
  return shown;
}
