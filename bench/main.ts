import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Rig, root } from '../tests/harness.js';
import { bare } from './bare.js';
import { batchPerSecond, during } from './batch.js';
import { chart } from './chart.js';
import { memory, startSeconds } from './footprint.js';
import { type Load, load } from './load.js';
import { openLoop, peak } from './overload.js';
import { measured } from './processorTime.js';
import { queuePath } from './queue.js';
import { atLeast, atMost, type Curve, machine, median, type Results, type Row, table } from './report.js';
import { AS_SHIPPED, ensureFastApi, fastApi, MANY, sluice, type Target } from './targets.js';
import { bareRows, embeddedTexts, servedRows, serveModels, specsOf, vectorBytes } from './tasks.js';
import { metricsCost } from './telemetry.js';

const PARTS = [
  'serve',
  'batch',
  'queue',
  'long',
  'workers',
  'overload',
  'embeddings',
  'tasks',
  'vectors',
  'metrics',
  'memory',
  'start',
] as const;
type Part = (typeof PARTS)[number];

const { rounds, seconds, parts, models, write } = readOptions();

function readOptions() {
  try {
    const { values } = parseArgs({
      options: {
        rounds: { type: 'string', default: '5' },
        seconds: { type: 'string', default: '8' },
        only: { type: 'string', default: PARTS.join() },
        /** For the part `tasks`. */
        models: { type: 'string', default: join(root, 'models.json') },
        /** Writes docs/bench.json, docs/bench.svg and the table in docs/performance.md. */
        write: { type: 'boolean', default: false },
      },
    });
    const wanted = new Set(values.only.split(','));
    for (const part of wanted) {
      if (!PARTS.some((known) => known === part))
        throw new Error(`--only accepts ${PARTS.join()}, not ${part}`);
    }
    const counts = { rounds: Number(values.rounds), seconds: Number(values.seconds) };
    if (!(counts.rounds >= 1 && counts.seconds >= 1)) {
      throw new Error('--rounds and --seconds must be 1 or more');
    }
    return { ...counts, parts: wanted, models: resolve(values.models), write: values.write };
  } catch (error) {
    process.stderr.write(`✗ ${error instanceof Error ? error.message : error}\n`);
    process.exit(2);
  }
}

/** One per core, like Sluice. */
const processes = availableParallelism();
const CEILING = `bare ceiling: the pipeline in ${processes} processes, sorted by length, 8 at once`;

const sentences = fileURLToPath(new URL('sentences.txt', import.meta.url));
const texts = readFileSync(sentences, 'utf8').trim().split('\n');
const many = (count: number) => Array.from({ length: count }, (_, i) => texts[i % texts.length] ?? '');

const say = (line: string) => process.stdout.write(`${line}\n`);
const missing: string[] = [];
let curves: Curve[] = [];
const rows = new Map<string, Row>();
/** Adds a measured value to its row. */
function record(what: string, value: number, unit = '', target?: Row['target']): void {
  const row = rows.get(what) ?? { what, unit, values: [], ...(target ? { target } : {}) };
  row.values.push(value);
  rows.set(what, row);
}

const CLIENTS = [1, 4, 16, 64, 256];
const VECTORS = 100_000;

/** Requests/s by number of clients, of Sluice, its peers and the bare pipeline. */
async function serve(): Promise<void> {
  const installed = ensureFastApi();
  const targets: Target[] = [sluice, ...(installed ? [fastApi(1), fastApi(2), fastApi(4)] : [])];
  if (!installed) missing.push('FastAPI (it could not be installed)');
  const seen = new Map(targets.map(({ name }) => [name, new Map<number, Load[]>()]));
  for (let round = 1; round <= rounds; round++) {
    const ceiling = await bare(sentences, { processes, size: 8, seconds });
    const alone = await bare(sentences, { processes: 1, size: 1, seconds });
    const at = new Map<string, Map<number, Load>>();
    for (const target of targets) {
      const server = await target.start();
      await load(server, sentences, { clients: 64, seconds: 3 });
      const loads = new Map<number, Load>();
      for (const clients of CLIENTS) {
        const { result, processorMs } = await measured(server.processes, () =>
          load(server, sentences, { clients, seconds }),
        );
        if (target === sluice && clients === 64) recordProcessorTime(processorMs, result.requests, ceiling);
        loads.set(clients, result);
        const before = seen.get(target.name)?.get(clients) ?? [];
        seen.get(target.name)?.set(clients, [...before, result]);
      }
      await server.stop();
      at.set(target.name, loads);
      say(
        `  round ${round}, ${target.name}: ${[...loads].map(([clients, { requests, seconds: took }]) => `${clients} → ${(requests / took).toFixed(0)}/s`).join(', ')}`,
      );
    }
    const rate = (name: string, clients: number) => {
      const { requests, seconds: took } = at.get(name)?.get(clients) ?? { requests: 0, seconds: 1 };
      return requests / took;
    };
    const own = at.get(sluice.name);
    record(
      `bare ceiling: the pipeline in ${processes} processes, sorted by length, 8 at once`,
      ceiling.perSecond,
      'texts/s',
    );
    for (const { name } of targets) record(`${name} at 64 clients`, rate(name, 64), '/s');
    record(
      'Sluice at 64 clients, relative to the bare ceiling',
      rate(sluice.name, 64) / ceiling.perSecond,
      '',
      atLeast(0.85),
    );
    if (targets.length > 1) {
      const best = Math.max(...targets.slice(1).map(({ name }) => rate(name, 64)));
      record(
        'Sluice at 64 clients, relative to the best FastAPI',
        rate(sluice.name, 64) / best,
        '',
        atLeast(1.45),
      );
    }
    record(
      'Sluice at 1 client: p50 minus p50 of the bare pipeline',
      (own?.get(1)?.p50 ?? 0) - alone.p50,
      'ms',
      atMost(1.5),
    );
    record(
      'Sluice at 64 clients: p99 / p50',
      (own?.get(64)?.p99 ?? 0) / (own?.get(64)?.p50 ?? 1),
      '',
      atMost(1.5),
    );
  }
  curves = [...seen].map(([name, loads]) => ({
    name,
    points: [...loads].map(([clients, results]) => ({
      clients,
      perSecond: median(results.map(({ requests, seconds: took }) => requests / took)),
      p50: median(results.map(({ p50 }) => p50)),
      p99: median(results.map(({ p99 }) => p99)),
    })),
  }));
}

/** Processor time of a request by part, and that of gateway, worker and Redis relative to a text of the bare pipeline. */
function recordProcessorTime(
  processorMs: Readonly<Record<string, number>>,
  requests: number,
  { processorUs }: { processorUs: number },
): void {
  const us = (name: string) => (1000 * (processorMs[name] ?? 0)) / requests;
  for (const name of Object.keys(processorMs))
    record(`Sluice at 64 clients, processor time of a request: ${name}`, us(name), 'µs');
  record('processor time of a text of the bare ceiling', processorUs, 'µs');
  record(
    'processor time of gateway, worker and Redis, relative to the bare ceiling',
    (us('gateway') + us('worker') + us('redis')) / processorUs,
    '',
    atMost(0.2),
  );
}

/** A job relative to the bare pipeline, and its effect on interactive requests. */
async function batch(): Promise<void> {
  for (let round = 1; round <= rounds; round++) {
    const before = await bare(sentences, { processes, size: 8, seconds });
    const server = await sluice.start();
    await load(server, sentences, { clients: 64, seconds: 3 });
    const perSecond = await batchPerSecond(server, many(20_000));
    await server.stop();
    const after = await bare(sentences, { processes, size: 8, seconds });
    record('job of 20,000 texts', perSecond, 'texts/s');
    record(
      'job of 20,000 texts, relative to the bare ceiling',
      perSecond / ((before.perSecond + after.perSecond) / 2),
      '',
      atLeast(0.92),
    );
    const interactive = await sluice.start();
    await load(interactive, sentences, { clients: 64, seconds: 3 });
    const quiet = await load(interactive, sentences, { clients: 8, seconds });
    const busy = await during(interactive, many(100_000), () =>
      load(interactive, sentences, { clients: 8, seconds }),
    );
    await interactive.stop();
    record('8 clients while a job runs: p99 relative to p99 without', busy.p99 / quiet.p99, '', atMost(2));
  }
}

async function queue(): Promise<void> {
  for (let round = 1; round <= rounds; round++) {
    const { sluice: own, bullmq } = await queuePath(256, seconds);
    record('queue path alone, 256 in flight', own, '/s');
    record('queue path, relative to a bare BullMQ queue', own / bullmq, '', atLeast(1.5));
  }
}

/** A file of texts of several sentences each, in a folder that the calling function must remove. */
function longTexts(count: number): { folder: string; file: string } {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-bench-'));
  const file = join(folder, 'long.txt');
  writeFileSync(file, texts.map((_, i) => texts.slice(i, i + count).join(' ')).join('\n'));
  return { folder, file };
}

/** Texts of four sentences (about 100 tokens), as a substitute for a model four times as large. */
async function long(): Promise<void> {
  const { folder, file } = longTexts(4);
  for (let round = 1; round <= rounds; round++) {
    const before = await bare(file, { processes, size: 8, seconds });
    const server = await sluice.start();
    await load(server, file, { clients: 64, seconds: 3 });
    const { requests, seconds: took } = await load(server, file, { clients: 64, seconds });
    await server.stop();
    const after = await bare(file, { processes, size: 8, seconds });
    const ceiling = (before.perSecond + after.perSecond) / 2;
    record('texts four times as long: Sluice at 64 clients', requests / took, '/s');
    record(
      'texts four times as long: Sluice relative to the bare pipeline with these texts',
      requests / took / ceiling,
      '',
      atLeast(0.95),
    );
  }
  rmSync(folder, { recursive: true });
}

/** Two workers with one model process each, relative to one worker. The texts are long, so that the model dominates. */
async function workers(): Promise<void> {
  const { folder, file: long } = longTexts(8);
  const perSecond = async (count: number) => {
    const rig = await Rig.start({ quiet: true });
    const key = await rig.key({ limits: [{ limit: MANY, windowSeconds: 60 }] });
    const { url } = await rig.gateway(AS_SHIPPED);
    await Promise.all(
      Array.from({ length: count }, () => rig.worker({ ...AS_SHIPPED, MODEL_PROCESSES: '1' })),
    );
    await load({ url, key }, long, { clients: 32, seconds: 3 });
    const { requests, seconds: took } = await load({ url, key }, long, { clients: 32, seconds });
    await rig.close();
    return requests / took;
  };
  for (let round = 1; round <= rounds; round++) {
    const [one, two] = [await perSecond(1), await perSecond(2)];
    record('two workers, relative to one', two / one, '', atLeast(1.75));
    const [bareOne, bareTwo] = [
      await bare(long, { processes: 1, size: 8, seconds }),
      await bare(long, { processes: 2, size: 8, seconds }),
    ];
    record('bare pipeline: two processes, relative to one', bareTwo.perSecond / bareOne.perSecond);
  }
  rmSync(folder, { recursive: true });
}

/** Twice the peak load for a minute, then a pause, then again. */
async function overload(): Promise<void> {
  const server = await sluice.start();
  await peak(server, texts, 3);
  const most = await peak(server, texts, 10);
  const twice = { perSecond: 2 * most, stretchSeconds: 10 };
  const [, ...steady] = await openLoop(server, texts, { ...twice, seconds: 60 });
  // All requests in flight are answered during the pause. The second load must behave like the first.
  await delay(5_000);
  const again = await openLoop(server, texts, { ...twice, seconds: 20 });
  await server.stop();
  // The first interval of each load is not counted, because it fills the queue.
  for (const stretch of [...steady, ...again.slice(1)]) {
    record(
      'twice the peak load for a minute: answers relative to the peak',
      stretch.answeredPerSecond / most,
      '',
      atLeast(0.9),
    );
    record('twice the peak load: 408s', 100 * stretch.late, '%', atMost(1));
    record('twice the peak load: 503s', 100 * stretch.refused, '%');
    record('twice the peak load: p50 of a 503', stretch.refusal.p50, 'ms');
    record('twice the peak load: p99 of a 503', stretch.refusal.p99, 'ms', atMost(50));
    record('twice the peak load: p99 of an answer', stretch.answered.p99, 'ms', atMost(5_000));
  }
}

/** The embedding model by OpenAI's API: 32 texts in a request, and one. */
async function embeddings(): Promise<void> {
  const spec = specsOf(models).find(({ task }) => task === 'feature-extraction');
  if (spec === undefined) return;
  for (let round = 1; round <= rounds; round++) {
    const { rig, ...endpoint } = await serveModels(models, [spec.id]);
    for (const [inputs, clients, target] of [
      [32, 8, 0.95],
      [1, 64, 0.85],
    ] as const) {
      const before = await bareRows(spec, texts, seconds);
      await embeddedTexts(endpoint, spec, texts, { clients, inputs, seconds: 3 });
      const perSecond = await embeddedTexts(endpoint, spec, texts, { clients, inputs, seconds });
      const after = await bareRows(spec, texts, seconds);
      const what = `embeddings, ${inputs === 1 ? 'one text' : `${inputs} texts`} a request, ${clients} clients`;
      record(what, perSecond, 'texts/s');
      record(
        `${what}: relative to the model processes alone`,
        (2 * perSecond) / (before + after),
        '',
        atLeast(target),
      );
    }
    await rig.close();
  }
}

/** Each model through the gateway and alone; then the first two at once. */
async function tasks(): Promise<void> {
  const specs = specsOf(models);
  for (let round = 1; round <= rounds; round++) {
    const { rig, ...endpoint } = await serveModels(models);
    for (const spec of specs) {
      const ceiling = await bareRows(spec, texts, seconds);
      await servedRows(endpoint, spec, texts, { clients: 64, seconds: 2 });
      const perSecond = await servedRows(endpoint, spec, texts, { clients: 64, seconds });
      const name = `${spec.task}, ${spec.id}`;
      record(`${name}: model processes alone`, ceiling, 'rows/s');
      record(`${name}: Sluice at 64 clients`, perSecond, 'rows/s');
      record(`${name}: Sluice relative to the model processes`, perSecond / ceiling);
    }
    const pair = specs.slice(0, 2);
    const load32 = { clients: 32, seconds };
    const alone = [];
    for (const spec of pair) alone.push(await servedRows(endpoint, spec, texts, load32));
    const together = await Promise.all(pair.map((spec) => servedRows(endpoint, spec, texts, load32)));
    for (const [i, { id }] of pair.entries()) {
      record(`${id}, 32 clients: alone`, alone[i] ?? 0, 'rows/s');
      record(`${id}, 32 clients: while the other model has 32`, together[i] ?? 0, 'rows/s');
    }
    await rig.close();
  }
}

/** Redis's memory for the vectors of a job. */
async function vectors(): Promise<void> {
  const spec = specsOf(models).find(({ task }) => task === 'feature-extraction');
  if (spec === undefined) return;
  const { job, results } = await vectorBytes(models, spec.id, VECTORS);
  record(`job of ${VECTORS} vectors of ${spec.id}: Redis's memory`, job / 1e6, 'MB');
  record(`job of ${VECTORS} vectors of ${spec.id}: its results`, results / 1e6, 'MB');
}

/** What metrics add to the processor time of a request at 64 clients. */
async function metrics(): Promise<void> {
  for (let round = 1; round <= rounds; round++) {
    const { requestUs, recordUs, scrapeShare } = await metricsCost(sentences, seconds);
    record('metrics and spans that do nothing: processor time of a request', recordUs, 'µs');
    record(
      'the same with a scrape every 15 s: share of the processor time of a request',
      100 * (recordUs / requestUs + scrapeShare),
      '%',
      atMost(1),
    );
  }
}

async function footprint(): Promise<void> {
  const looks = await memory(sentences, 100_000);
  say(
    `  ${looks.map(({ requests, gateway, worker, modelProcess }) => `${requests}: ${[gateway, worker, modelProcess].map(Math.round).join('/')} MB`).join(', ')}`,
  );
  const last = looks.at(-1);
  if (last === undefined) return;
  record('resident memory after 100,000 requests: gateway', last.gateway, 'MB', atMost(200));
  record('resident memory after 100,000 requests: worker', last.worker, 'MB', atMost(130));
  record('resident memory after 100,000 requests: model process', last.modelProcess, 'MB', atMost(280));
}

async function start(): Promise<void> {
  for (let round = 1; round <= rounds; round++) {
    record('from `npm start` (installed and built) to ready', await startSeconds(), 's', atMost(3));
  }
}

const run: Record<Part, () => Promise<void>> = {
  serve,
  batch,
  queue,
  long,
  workers,
  overload,
  embeddings,
  tasks,
  vectors,
  metrics,
  memory: footprint,
  start,
};
for (const part of PARTS) {
  if (!parts.has(part)) continue;
  say(`• ${part}`);
  await run[part]();
}
const results: Results = {
  date: new Date().toISOString().slice(0, 10),
  machine: machine(),
  missing,
  rows: [...rows.values()],
  curves,
};
const { processor, cores, memory_gb, node, redis } = results.machine;
const caption = `${results.date}, ${processor}, ${cores} cores, ${memory_gb} GB, Node ${node}, Redis ${redis}; medians of ${rounds} rounds`;
say(`\n${caption}\n\n${table(results.rows)}`);
for (const name of missing) say(`Missing: ${name}`);
if (write) {
  writeFileSync(join(root, 'docs/bench.json'), `${JSON.stringify(results, null, 2)}\n`);
  const ceiling = median(rows.get(CEILING)?.values ?? []);
  if (curves.length > 0) writeFileSync(join(root, 'docs/bench.svg'), chart(curves, ceiling, caption));
  const page = join(root, 'docs/performance.md');
  const text = readFileSync(page, 'utf8');
  const block = /(<!-- bench -->\n)[\s\S]*?(\n<!-- \/bench -->)/;
  writeFileSync(
    page,
    text.replace(block, (_, begin, end) => `${begin}\n${caption}.\n\n${table(results.rows)}\n${end}`),
  );
}
process.exit(0);
