/** The cosine of the first vector with each of the others; 0 for a vector of zeros, which has no direction. */
export function similarities([first = new Float32Array(), ...others]: readonly Float32Array[]): number[] {
  const dot = (one: Float32Array, other: Float32Array) =>
    one.reduce((sum, value, i) => sum + value * (other[i] ?? Number.NaN), 0);
  return others.map((other) => {
    const lengths = Math.sqrt(dot(first, first) * dot(other, other));
    return lengths === 0 ? 0 : dot(first, other) / lengths;
  });
}
