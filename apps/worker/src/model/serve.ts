import type { Classifier, Load } from './pipeline.js';
import { type FromProcess, type LoadMessage, type RunMessage, toProcessSchema } from './protocol.js';

/**
 * Serves a model over IPC as this process: loads what the first message says, then runs one message after the
 * other. Ends when its parent is gone.
 * @param load loads the model; the shipped process gives `loadPipeline`
 */
export function serve(load: Load): void {
  let classifier: Classifier | undefined;
  const tell = (message: FromProcess, then: () => void = () => {}) => process.send?.(message, then);

  async function begin(message: LoadMessage): Promise<void> {
    try {
      classifier = await load(message, tell);
      tell({ type: 'ready', facts: classifier.facts });
    } catch (error) {
      tell({ type: 'unloadable', reason: reasonOf(error) }, () => process.exit(1));
    }
  }

  async function run({ runId, texts, topK }: RunMessage): Promise<void> {
    try {
      if (classifier === undefined) throw new Error('No model is loaded');
      tell({ type: 'result', runId, results: await classifier.classify(texts, topK) });
    } catch (error) {
      tell({ type: 'refused', runId, reason: reasonOf(error) });
    }
  }

  process.on('disconnect', () => process.exit(0));
  // A terminal's Ctrl-C reaches the whole group; the parent drains and ends this process itself.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => {});
  process.on('message', (json) => {
    const message = toProcessSchema.parse(json);
    void (message.type === 'load' ? begin(message) : run(message));
  });
}

/** One line: what happened, and what lies behind it. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const [line = ''] = error.message.split('\n', 1);
  return error.cause === undefined ? line : `${line} (${reasonOf(error.cause)})`;
}
