import { type ModelSpec, modelSpecs, readSettings } from '@sluice/shared';
import { type Row, taskNamed } from '@sluice/tasks';
import { loadMessage, ModelProcess, modelProcessEntry } from '@sluice/worker';
import { Rig, until } from '../tests/harness.js';
import { Client } from './client.js';
import type { Endpoint } from './load.js';
import { AS_SHIPPED, MANY } from './targets.js';

const BUDGET_MS = 60_000;
const ROWS_PER_RUN = 8;
const TEXTS_TO_RANK = 4;
const LABELS = ['a film', 'food', 'politics'];

/** What is sent to a model of each task, from a list of texts. */
const requests: Readonly<
  Record<ModelSpec['task'], (texts: readonly string[], i: number) => { input: unknown; parameters: object }>
> = {
  'text-classification': (texts, i) => ({ input: texts[i], parameters: {} }),
  'token-classification': (texts, i) => ({ input: texts[i], parameters: {} }),
  'feature-extraction': (texts, i) => ({ input: texts[i], parameters: {} }),
  'zero-shot-classification': (texts, i) => ({ input: texts[i], parameters: { candidate_labels: LABELS } }),
  'text-ranking': (texts, i) => ({
    input: {
      query: texts[i],
      texts: Array.from({ length: TEXTS_TO_RANK }, (_, j) => texts[(i + 1 + j) % texts.length]),
    },
    parameters: {},
  }),
};

/** The models of a `models.json`, as a worker on this machine serves them. */
export const specsOf = (file: string): readonly ModelSpec[] =>
  modelSpecs(readSettings({ MODELS_FILE: file }));

/** Rows per second of the model processes alone: as many as a worker has, with rows sorted by length, 8 at once. */
export async function bareRows(spec: ModelSpec, texts: readonly string[], seconds: number): Promise<number> {
  if (!('folder' in spec.source)) throw new Error(`The benchmark takes models in folders, not ${spec.id}`);
  const { folder } = spec.source;
  const task = taskNamed(spec.task);
  const started = Array.from(
    { length: spec.processes },
    () =>
      new ModelProcess(
        [process.execPath, modelProcessEntry],
        { ...loadMessage(spec, folder), measure: false },
        BUDGET_MS,
      ),
  );
  try {
    const [facts] = await Promise.all(started.map(({ ready }) => ready));
    const parameters = task.parameters.parse(requests[spec.task](texts, 0).parameters);
    const rows: Row[] = texts.flatMap((_, i) =>
      task.rows(task.input.parse(requests[spec.task](texts, i).input), parameters, facts?.task),
    );
    const length = ({ text, pair = '' }: Row) => text.length + pair.length;
    rows.sort((one, other) => length(one) - length(other));
    const startMs = performance.now();
    let done = 0;
    await Promise.all(
      started.map(async (model, offset) => {
        for (let i = offset; performance.now() < startMs + 1000 * seconds; i += started.length) {
          const at = (i * ROWS_PER_RUN) % rows.length;
          const some = rows.slice(at, at + ROWS_PER_RUN);
          await model.run({ rows: some, parameters: task.runParameters(parameters) }, BUDGET_MS);
          done += some.length;
        }
      }),
    );
    return (1000 * done) / (performance.now() - startMs);
  } finally {
    for (const model of started) model.kill();
    await Promise.all(started.map(({ gone }) => gone));
  }
}

/**
 * Sluice with the models of a file.
 * @param served ids of the models that its worker serves; all if not given
 */
export async function serveModels(
  file: string,
  served: readonly string[] = [],
): Promise<Endpoint & { rig: Rig }> {
  const rig = await Rig.start({ quiet: true });
  const env = { ...AS_SHIPPED, MODEL: '', MODELS_FILE: file, WORKER_MODELS: served.join() };
  const [{ url }, key] = await Promise.all([
    rig.gateway(env),
    rig.key({ limits: [{ limit: MANY, windowSeconds: 60 }], bulkLimit: MANY }),
    rig.worker({ ...env, MODEL_PROCESSES: '' }),
  ]);
  return { url, key, rig };
}

/** Rows per second of a model through the gateway, one input a request. */
export async function servedRows(
  endpoint: Endpoint,
  spec: ModelSpec,
  texts: readonly string[],
  { clients, seconds }: { clients: number; seconds: number },
): Promise<number> {
  const task = taskNamed(spec.task);
  const client = new Client(endpoint, `/models/${spec.id}`);
  const bodies = texts.map((_, i) => requests[spec.task](texts, i));
  const rows = bodies.map(
    ({ input, parameters }) => task.rows(task.input.parse(input), task.parameters.parse(parameters)).length,
  );
  return answeredPerSecond(
    client,
    bodies.map(({ input: inputs, parameters }, i) => ({ body: { inputs, parameters }, rows: rows[i] ?? 0 })),
    { clients, seconds },
  );
}

/**
 * Posts bodies in turn, several at once, and closes the client. Resolves to the rows that are answered in a second.
 * @throws Error for a status other than 200
 */
async function answeredPerSecond(
  client: Client,
  bodies: readonly { body: object; rows: number }[],
  { clients, seconds }: { clients: number; seconds: number },
): Promise<number> {
  const startMs = performance.now();
  let done = 0;
  let next = 0;
  await Promise.all(
    Array.from({ length: clients }, async () => {
      while (performance.now() < startMs + 1000 * seconds) {
        const { body, rows } = bodies[next++ % bodies.length] ?? { body: {}, rows: 0 };
        const { status } = await client.post(body);
        if (status !== 200) throw new Error(`A request was answered with ${status}`);
        done += rows;
      }
    }),
  );
  client.close();
  return (1000 * done) / (performance.now() - startMs);
}

/** Texts per second of an embedding model by `/v1/embeddings`, several in a request, as OpenAI's clients ask for them. */
export async function embeddedTexts(
  endpoint: Endpoint,
  spec: ModelSpec,
  texts: readonly string[],
  { clients, inputs, seconds }: { clients: number; inputs: number; seconds: number },
): Promise<number> {
  const client = new Client(endpoint, '/v1/embeddings');
  const bodies = Array.from({ length: Math.ceil(texts.length / inputs) }, (_, i) => {
    const input = texts.slice(i * inputs, (i + 1) * inputs);
    return { body: { model: spec.id, input, encoding_format: 'base64' }, rows: input.length };
  });
  return answeredPerSecond(client, bodies, { clients, seconds });
}

/** Bytes of Redis's memory that a finished job of short texts takes: all of it, and its results. */
export async function vectorBytes(
  file: string,
  model: string,
  count: number,
): Promise<{ job: number; results: number }> {
  const { url, key, rig } = await serveModels(file);
  try {
    const used = async () => Number(/^used_memory:(\d+)/m.exec(await rig.redis.info('memory'))?.[1]);
    const before = await used();
    const lines = [{ batch: { model } }, ...Array.from({ length: count }, (_, i) => `text ${i}`)];
    const response = await fetch(`${url}/analyze_batch`, {
      method: 'POST',
      headers: { 'X-API-Key': key, 'Content-Type': 'application/x-ndjson' },
      body: lines.map((line) => JSON.stringify(line)).join('\n'),
    });
    const { job_id: id } = (await response.json()) as { job_id: string };
    await until(
      'the job ended',
      async () => (await rig.redis.hget(`{sluice}:job:${id}`, 'status')) === 'completed',
      1_800_000,
    );
    const results = Number(
      await rig.redis.call('MEMORY', 'USAGE', `{sluice}:job:${id}:results`, 'SAMPLES', '0'),
    );
    return { job: (await used()) - before, results };
  } finally {
    await rig.close();
  }
}
