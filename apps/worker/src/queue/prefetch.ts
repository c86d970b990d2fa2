/**
 * Micro-batches of interactive items that a worker holds per model process: at least the one that runs and the next one; at
 * most two more, so that the batcher finds items of similar length.
 */
const LEAST_MICRO_BATCHES = 2;
const MOST_MICRO_BATCHES = 4;

interface PrefetchOptions {
  /** Model processes of this worker. */
  processes: number;
  /** Maximum number of rows of a micro-batch. */
  microBatchRows: number;
  /** Model processes of all live workers that serve the model. */
  fleetProcesses: () => number;
}

/**
 * How many interactive rows a worker may hold: its share of all unanswered rows, in proportion to its model processes, but at
 * least two and at most four micro-batches per process. A worker that held more could leave others without work; one that is
 * alone may hold the most.
 */
export class Prefetch {
  #options: PrefetchOptions;
  #unansweredRows = 0;

  constructor(options: PrefetchOptions) {
    this.#options = options;
  }

  /** Records the unanswered rows of all gateways, as the latest message reports them. */
  record(unansweredRows: number): void {
    this.#unansweredRows = unansweredRows;
  }

  get maxRows(): number {
    const { processes, microBatchRows, fleetProcesses } = this.#options;
    const rows = processes * microBatchRows;
    const most = MOST_MICRO_BATCHES * rows;
    const fleet = fleetProcesses();
    if (fleet <= processes) return most;
    const share = Math.ceil((this.#unansweredRows * processes) / fleet);
    return Math.min(most, Math.max(LEAST_MICRO_BATCHES * rows, share));
  }
}
