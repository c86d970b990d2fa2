import { createRegistry, type Lane, type RedisClock } from '@sluice/shared';
import { Counter, Gauge, Histogram } from 'prom-client';

/** Upper bounds in seconds. */
const WAIT_SECONDS = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
const RUN_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
const ROWS = [1, 2, 4, 8, 16, 32, 64, 128, 256];
const PADDING = [0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1];

/** A model process that was replaced: it hung, it ended, or it did not load. */
export type RestartReason = 'hung' | 'crashed' | 'load_failed';

/** A successful run of a micro-batch. */
export interface DoneRun {
  lane: Lane;
  rows: number;
  /** Tokens that the model read, without padding. */
  tokens: number;
  /** Tokens of the longest row. */
  longest: number;
  ms: number;
}

/** The metrics of a worker. */
export type Metrics = ReturnType<typeof createMetrics>;
/** The metrics of one model. */
export type ModelMetrics = ReturnType<Metrics['of']>;

/** Creates the metrics of a worker. */
export function createMetrics(clock: RedisClock) {
  const registry = createRegistry(clock);
  const registers = [registry];
  const queueWait = new Histogram({
    name: 'sluice_queue_wait_seconds',
    help: 'Time from the submission of an item of a request to the start of its run',
    labelNames: ['model', 'lane'],
    buckets: WAIT_SECONDS,
    registers,
  });
  const inference = new Histogram({
    name: 'sluice_inference_seconds',
    help: 'Duration of the successful run of a micro-batch in a model process',
    labelNames: ['model', 'lane'],
    buckets: RUN_SECONDS,
    registers,
  });
  const microBatchRows = new Histogram({
    name: 'sluice_micro_batch_rows',
    help: 'Rows of a micro-batch',
    labelNames: ['model', 'lane'],
    buckets: ROWS,
    registers,
  });
  const padding = new Histogram({
    name: 'sluice_padding_ratio',
    help: 'Share of the tokens of a micro-batch that are padding, from 0 to 1',
    labelNames: ['model'],
    buckets: PADDING,
    registers,
  });
  const items = new Counter({
    name: 'sluice_items_total',
    help: 'Items by outcome: answer, timed_out, failed, too_long, wrong_parameter, expired (dropped because no client was waiting)',
    labelNames: ['model', 'outcome'],
    registers,
  });
  const restarts = new Counter({
    name: 'sluice_model_process_restarts_total',
    help: 'Model processes that hung, crashed or failed to load',
    labelNames: ['model', 'reason'],
    registers,
  });
  const ready = new Gauge({
    name: 'sluice_model_processes_ready',
    help: 'Model processes with a loaded model',
    labelNames: ['model'],
    registers,
    collect() {
      for (const [model, count] of readyOf) this.set({ model }, count());
    },
  });
  const readyOf = new Map<string, () => number>();

  return {
    /** The metrics of one model. */
    of(model: string) {
      for (const reason of ['hung', 'crashed', 'load_failed']) restarts.inc({ model, reason }, 0);
      return {
        /** Records how long an input waited for its run, in milliseconds. */
        wait: (lane: Lane, ms: number) => queueWait.observe({ model, lane }, Math.max(0, ms) / 1000),
        run({ lane, rows, tokens, longest, ms }: DoneRun): void {
          inference.observe({ model, lane }, ms / 1000);
          microBatchRows.observe({ model, lane }, rows);
          padding.observe({ model }, longest === 0 ? 0 : 1 - tokens / (rows * longest));
        },
        item: (outcome: string) => items.inc({ model, outcome }),
        restart: (reason: RestartReason) => restarts.inc({ model, reason }),
        /** Sets what counts the processes with a loaded model; undefined removes the series. */
        ready(count: (() => number) | undefined): void {
          if (count) readyOf.set(model, count);
          else {
            readyOf.delete(model);
            ready.remove({ model });
          }
        },
      };
    },
    contentType: registry.contentType,
    /** The metrics in the text format of Prometheus. */
    text: () => registry.metrics(),
  };
}
