import { readFileSync } from 'node:fs';

/**
 * The session options of onnxruntime for a processor. A process runs one thread: two processes of one thread give
 * 554 texts/s on two cores, one of two threads 378.
 *
 * On x86-64 without VNNI the int8 kernels add pairs of products in 16 bits and saturate: scores of a model with
 * 8-bit weights moved by up to 0.22 against a processor with VNNI. `session.x64quantprecision` takes kernels that
 * do not; with VNNI it would gain nothing and cost 44 % of the speed.
 * @param arch as `process.arch`
 * @param flags of the processor, as /proc/cpuinfo lists them; undefined when they cannot be read
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

/** The flags of this machine's processor; undefined where the system does not list them. */
export function readCpuFlags(file = '/proc/cpuinfo'): ReadonlySet<string> | undefined {
  try {
    const line = /^flags\s*:(.*)$/m.exec(readFileSync(file, 'utf8'))?.[1];
    return line === undefined ? undefined : new Set(line.trim().split(/\s+/));
  } catch {
    // Not Linux, or not readable here: undefined says so, and is treated as the slower, safer kind.
    return undefined;
  }
}
