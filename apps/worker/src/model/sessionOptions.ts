import { readFileSync } from 'node:fs';

/**
 * The session options of onnxruntime for a processor. A process runs one thread: on two cores, two processes of one
 * thread gave 554 texts/s, and one process of two threads gave 378.
 *
 * On x86-64 without VNNI the int8 kernels add pairs of products in 16 bits and saturate: outputs of a model with 8-bit
 * weights differed by up to 0.22 from a processor with VNNI. `session.x64quantprecision` selects kernels that do not
 * saturate. With VNNI it would change nothing and cost 44 % of the speed.
 * @param arch as `process.arch`
 * @param flags of the processor, as /proc/cpuinfo lists them; undefined if they cannot be read
 */
export function sessionOptionsFor(
  arch: string,
  flags: ReadonlySet<string> | undefined,
): Record<string, unknown> {
  const vnni = flags !== undefined && (flags.has('avx512_vnni') || flags.has('avx_vnni'));
  return {
    intraOpNumThreads: 1,
    ...(arch === 'x64' && !vnni ? { extra: { session: { x64quantprecision: '1' } } } : {}),
  };
}

/** The flags of this machine's processor; undefined if the system does not list them. */
export function readCpuFlags(file = '/proc/cpuinfo'): ReadonlySet<string> | undefined {
  try {
    const line = /^flags\s*:(.*)$/m.exec(readFileSync(file, 'utf8'))?.[1];
    return line === undefined ? undefined : new Set(line.trim().split(/\s+/));
  } catch {
    // Not Linux, or not readable. The caller then selects the slower, safe kernels.
    return undefined;
  }
}
