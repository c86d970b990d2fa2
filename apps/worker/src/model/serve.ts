import { epochMs, ModelError } from '@sluice/shared';
import { type FromProcess, type LoadMessage, type RunMessage, toProcessSchema } from '../process/protocol.js';
import type { Load, LoadedModel } from './load.js';

/**
 * Serves a model over IPC as this process: loads the model that the first message names, then runs the rows of each
 * further message. The process ends when its parent is gone.
 * @param load loads the model; the shipped process uses `loadModel`
 */
export function serve(load: Load): void {
  let model: LoadedModel | undefined;
  /** Runs follow each other: the parent sends the next one while the present one runs. */
  let runs = Promise.resolve();
  const send = (message: FromProcess, then: () => void = () => {}) => process.send?.(message, then);
  const sent = (message: FromProcess) => new Promise<void>((resolve) => send(message, resolve));

  async function begin(message: LoadMessage): Promise<void> {
    try {
      model = await load(message, () => send({ type: 'measuring' }));
      send({ type: 'ready', facts: model.facts });
    } catch (error) {
      const code = error instanceof ModelError ? error.code : 'load_failed';
      send({ type: 'unloadable', code, reason: reasonOf(error) }, () => process.exit(1));
    }
  }

  async function run({ runId, rows, parameters }: RunMessage): Promise<void> {
    try {
      if (model === undefined) throw new Error('No model is loaded');
      const startedMs = epochMs();
      const results = await model.run(rows, parameters);
      const endedMs = epochMs();
      // The next run blocks this thread, and with it what is still to be sent.
      await sent({ type: 'result', runId, results, startedMs, endedMs });
    } catch (error) {
      await sent({ type: 'refused', runId, reason: reasonOf(error) });
    }
  }

  process.on('disconnect', () => process.exit(0));
  // Ctrl-C in a terminal, or closing it, signals the whole process group. The parent drains, and then ends this process.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => {});
  process.on('message', (received) => {
    const message = toProcessSchema.parse(received);
    if (message.type === 'load') void begin(message);
    else runs = runs.then(() => run(message));
  });
}

/** One line: the error, and its causes. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const [line = ''] = error.message.split('\n', 1);
  return error.cause === undefined ? line : `${line} (${reasonOf(error.cause)})`;
}
