import type { Task } from '@sluice/tasks';
import type { Measured, RowResult } from '../process/protocol.js';
import type { TaskModel } from './taskModel.js';

/** Each probe runs this many times; its fastest run counts, because other processes can only slow it down. */
const RUNS = 5;
/** A slow model is measured with fewer runs: no further round starts after this time, in milliseconds. */
const MAX_MEASURE_MS = 2_000;
/** The fixed part of a run is at most this fraction of the longest probe's time. A larger one is a measuring error. */
const MAX_FIXED = 0.75;
/** Outputs that differ by more than this count as changed by batching. */
export const MAX_DRIFT = 1e-4;

/** Time and size of a row that ran alone; of a probe with several rows, their mean. */
interface Sample {
  ms: number;
  tokens: number;
}

/**
 * Runs the probes of a model, each row alone and then together, to find what a run costs and whether outputs change when rows
 * run together. When they run together, the short ones are padded.
 * @param onRun called after each run
 */
export async function measure(
  task: Task,
  { run, probes, facts: given }: TaskModel,
  onRun: () => void = () => {},
): Promise<Measured> {
  const parameters = task.parameters.parse(probes.parameters);
  const facts = task.facts.parse(given);
  const runParameters = task.runParameters(parameters);
  const rowsOf = probes.inputs.map((input) => task.rows(input, parameters, facts));
  const outputOf = (probe: number, results: readonly RowResult[]) =>
    task.combine(
      results.map(({ raw }) => raw),
      probes.inputs[probe],
      parameters,
      facts,
    );
  const alone: unknown[] = [];
  const samples: Sample[] = [];
  const startedMs = performance.now();
  for (
    let round = 0;
    round < RUNS && (round === 0 || performance.now() - startedMs < MAX_MEASURE_MS);
    round++
  ) {
    for (const [probe, rows] of rowsOf.entries()) {
      const results: RowResult[] = [];
      let ms = 0;
      // Some models cannot run two rows at once.
      for (const row of rows) {
        const runMs = performance.now();
        results.push(...(await run([row], runParameters)));
        ms += (performance.now() - runMs) / rows.length;
        onRun();
      }
      alone[probe] = outputOf(probe, results);
      const tokens = results.reduce((sum, result) => sum + result.tokens / results.length, 0);
      samples[probe] = { ms: Math.min(ms, samples[probe]?.ms ?? ms), tokens };
    }
  }
  const drift = await measureDrift();
  return { drift, ...costOf(samples), msPerRow: meanMsPerRow() };

  /** The largest difference between an output of rows alone and together; null if they cannot run together. */
  async function measureDrift(): Promise<number | null> {
    const together = await run(rowsOf.flat(), runParameters).catch(() => undefined);
    onRun();
    if (together === undefined) return null;
    let drift = 0;
    let start = 0;
    for (const [probe, rows] of rowsOf.entries()) {
      const end = start + rows.length;
      const difference = task.difference(alone[probe], outputOf(probe, together.slice(start, end)));
      // JSON cannot represent NaN or infinity.
      drift = Math.max(drift, Number.isFinite(difference) ? difference : Number.MAX_VALUE);
      start = end;
    }
    return drift;
  }

  function meanMsPerRow(): number {
    return samples.reduce((sum, { ms }) => sum + ms, 0) / Math.max(1, samples.length);
  }
}

/**
 * The cost of a run that explains some samples: a fixed part, and a part for each token. With the bundled classifier, one
 * thread: 0.31 ms and 0.052 ms.
 * @param samples at least one, the shortest first
 */
export function costOf(samples: readonly Sample[]): Pick<Measured, 'msPerRun' | 'msPerToken'> {
  const [short = { ms: 0, tokens: 0 }] = samples;
  const long = samples.at(-1) ?? short;
  const slope = (long.ms - short.ms) / Math.max(1, long.tokens - short.tokens);
  const msPerToken = Math.max(slope, ((1 - MAX_FIXED) * long.ms) / Math.max(1, long.tokens), 1e-6);
  return { msPerRun: Math.max(0, short.ms - short.tokens * msPerToken), msPerToken };
}
