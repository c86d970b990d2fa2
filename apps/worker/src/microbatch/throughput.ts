import type { Lane } from '@sluice/shared';

/** After this long a run counts for a third, in milliseconds. */
const MEMORY_MS = 2_000;
/** Runs of the bulk lane count if the last one of the interactive lane is so long ago, in milliseconds. */
const INTERACTIVE_FOR_MS = 10_000;

/**
 * How many rows a model process answers in a second, averaged over the last seconds. The rows are divided by the time
 * that their runs took, not by the time that passed, so that the rate stays right while there is little work. Inputs of jobs
 * may be longer than those of requests, so runs of the bulk lane count only while there are no others.
 */
export class Throughput {
  #rows: number;
  #busyMs: number;
  #recordedMs = 0;
  #interactiveMs = Number.NEGATIVE_INFINITY;

  /** @param msPerRow an initial estimate, whose weight fades within seconds */
  constructor(msPerRow: number) {
    this.#rows = 1;
    this.#busyMs = Math.max(msPerRow, 1e-3);
  }

  /**
   * Records a run.
   * @param nowMs when it ended
   */
  record({ lane, rows, busyMs, nowMs }: { lane: Lane; rows: number; busyMs: number; nowMs: number }): void {
    if (lane === 'interactive') this.#interactiveMs = nowMs;
    else if (nowMs - this.#interactiveMs < INTERACTIVE_FOR_MS) return;
    const kept = Math.exp((this.#recordedMs - nowMs) / MEMORY_MS);
    this.#rows = this.#rows * kept + rows;
    this.#busyMs = this.#busyMs * kept + busyMs;
    this.#recordedMs = nowMs;
  }

  get rowsPerSecond(): number {
    return (1000 * this.#rows) / this.#busyMs;
  }
}
