import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** Process ids of a server, by part: `gateway`, `worker`, `model`, `redis`. */
export type Processes = Readonly<Record<string, readonly number[]>>;

/** Length of the kernel's unit of processor time in milliseconds. */
const TICK_MS = 1000 / Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));

/** Processor time that a process has used, user and system, in milliseconds (proc_pid_stat(5)). */
function processorMs(pid: number): number {
  // The name of the process, in parentheses, may contain spaces.
  const [, fields = ''] = readFileSync(`/proc/${pid}/stat`, 'utf8').split(/\) (?!.*\) )/);
  const [user = 0, system = 0] = fields.split(' ').slice(11, 13).map(Number);
  return (user + system) * TICK_MS;
}

/** Runs something; resolves to its result, and the processor time that each group used meanwhile, in milliseconds. */
export async function measured<T>(
  processes: Processes,
  work: () => Promise<T>,
): Promise<{ result: T; processorMs: Readonly<Record<string, number>> }> {
  const used = () =>
    Object.entries(processes).map(
      ([name, pids]) => [name, pids.reduce((sum, pid) => sum + processorMs(pid), 0)] as const,
    );
  const before = new Map(used());
  const result = await work();
  return {
    result,
    processorMs: Object.fromEntries(used().map(([name, ms]) => [name, ms - (before.get(name) ?? 0)])),
  };
}
