// Simulates many gateways and workers: `npm run simulate -- --help` lists the options.
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type Load, load } from '../load.js';
import { measured } from '../processorTime.js';
import { sluice } from '../targets.js';
import { Clock } from './clock.js';
import { type Costs, type Ended, SimulatedSluice, type Size } from './sluice.js';

const USAGE = `npm run simulate -- [options]

  --workers N    workers (200), each on a separate machine
  --rate N       requests per second (50000)
  --gateways N   gateways, each with a core (as many as the rate needs)
  --redis N      installations, each with its own Redis; gateways, workers and requests are divided among them (1)
  --processes N  model processes and cores of a worker (2)
  --seconds N    seconds of virtual time (20)
  --kill SHARE   share of the workers that die in the middle (0.5)
  --check        compare with real runs on this machine instead
`;

/**
 * Gateway, worker and Redis as in docs/performance.md at 64 clients, where a message has about six requests; divided between request
 * and message as `--check` measures it. The model is the bundled classifier as a worker logs it at load, on 2 cores of an AMD EPYC
 * without VNNI. `clientMs` is an assumption; it matters only if everything runs on one machine.
 */
const COSTS: Costs = {
  gateway: { requestMs: 0.909, messageMs: 0.22 },
  worker: { requestMs: 0.35, messageMs: 0.946 },
  redis: { requestMs: 0.178, messageMs: 0.43 },
  clientMs: 0.1,
  msPerRun: 2.3,
  msPerToken: 0.19,
};
/** Requests in a message if the workers are not overloaded, to estimate how many gateways and installations a rate needs. */
const REQUESTS_PER_MESSAGE = 1.2;
const perRequestMs = ({ requestMs, messageMs }: Costs['gateway']) =>
  requestMs + messageMs / REQUESTS_PER_MESSAGE;
/** The simulation may differ from a real run by this much. */
const TOLERANCE = 0.15;

const say = (line: string) => process.stdout.write(`${line}\n`);

/** Ends the process because of a wrong option. */
function wrongUse(message: string): never {
  process.stderr.write(`✗ ${message}\n\n${USAGE}`);
  process.exit(2);
}

function readOptions() {
  try {
    return parseArgs({
      options: {
        workers: { type: 'string', default: '200' },
        rate: { type: 'string', default: '50000' },
        gateways: { type: 'string' },
        redis: { type: 'string', default: '1' },
        processes: { type: 'string', default: '2' },
        seconds: { type: 'string', default: '20' },
        kill: { type: 'string', default: '0.5' },
        check: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    return wrongUse(error instanceof Error ? error.message : String(error));
  }
}

const values = readOptions();
/** What one machine can simulate in a few minutes. */
const MOST = [
  ['workers', 5_000],
  ['rate', 1_000_000],
  ['gateways', 10_000],
  ['redis', 5_000],
  ['processes', 64],
  ['seconds', 600],
] as const;
for (const [name, most] of MOST) {
  const value = values[name];
  if (value !== undefined && !(/^\d+$/.test(value) && Number(value) >= 1 && Number(value) <= most))
    wrongUse(`--${name} must be a whole number from 1 to ${most}`);
}
if (!(Number(values.kill) >= 0 && Number(values.kill) <= 1)) wrongUse('--kill must be a number from 0 to 1');
if (Number(values.redis) > Number(values.workers))
  wrongUse('each installation of --redis needs one of the --workers');

const sentences = fileURLToPath(new URL('../sentences.txt', import.meta.url));
/** Estimated lengths of the sentences in tokens: 1.1 for each word or punctuation mark, and two special tokens. */
const lengths = readFileSync(sentences, 'utf8')
  .trim()
  .split('\n')
  .map((text) => Math.round(2 + 1.1 * (text.match(/\w+|[^\s\w]/g)?.length ?? 0)));
const meanTokens = lengths.reduce((sum, tokens) => sum + tokens, 0) / lengths.length;
const tokensOf = (n: number) => lengths[n % lengths.length] ?? 20;

const quantile = (sorted: readonly number[], share: number) =>
  sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;

/** One line of the table: what ended in a part of the time. */
function summary(ended: readonly Ended[], seconds: number) {
  const of = (status: number) => ended.filter((one) => one.status === status);
  const latencies = of(200)
    .map(({ sentMs, endMs }) => endMs - sentMs)
    .toSorted((one, other) => one - other);
  return {
    answered: of(200).length / seconds,
    refused: of(503).length / seconds,
    timedOut: of(408).length / seconds,
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
  };
}

/** Requests that arrive at random, at a constant mean rate. */
function arrivals(clock: Clock, rate: number, send: (n: number) => void): void {
  let n = 0;
  const next = () => {
    send(n++);
    clock.after((-1000 * Math.log(1 - Math.random())) / rate, next);
  };
  next();
}

function simulate(): void {
  const installations = Number(values.redis);
  const rate = Number(values.rate) / installations;
  const workers = Math.round(Number(values.workers) / installations);
  const seconds = Number(values.seconds);
  const gateways = Math.ceil(
    values.gateways
      ? Number(values.gateways) / installations
      : (rate * perRequestMs(COSTS.gateway)) / 1000 / 0.7,
  );
  const processes = Number(values.processes);
  const size: Size = { gateways, workers, processes, cores: processes, oneMachine: false };
  const clock = new Clock();
  const simulated = new SimulatedSluice(clock, COSTS, size);
  arrivals(clock, rate, (n) => simulated.send(tokensOf(n)));
  const killMs = (1000 * seconds) / 2;
  clock.after(killMs, () => {
    const dying = Math.round(Number(values.kill) * workers);
    for (const worker of simulated.workers.slice(0, dying)) worker.kill();
  });
  say(
    `${installations} × (${gateways} gateways, 1 Redis, ${workers} workers with ${processes} model processes), ` +
      `${values.rate} requests/s; after ${seconds / 2} s ${100 * Number(values.kill)} % of the workers die\n`,
  );
  say('| second | answered/s | 503/s | 408/s | p50 ms | p99 ms | Redis busy | gateways busy |');
  say('| --- | --- | --- | --- | --- | --- | --- | --- |');
  let [redisMs, gatewayMs] = [0, 0];
  for (let second = 1; second <= seconds; second++) {
    const before = simulated.ended.length;
    clock.runUntil(1000 * second);
    const { answered, refused, timedOut, p50, p99 } = summary(simulated.ended.slice(before), 1);
    const used = [
      simulated.redis.usedMs,
      simulated.gateways.reduce((sum, { process }) => sum + process.usedMs, 0),
    ] as const;
    const busy = [(used[0] - redisMs) / 10, (used[1] - gatewayMs) / 10 / gateways].map(
      (share) => `${Math.round(share)} %`,
    );
    [redisMs, gatewayMs] = used;
    const all = [answered, refused, timedOut].map((count) => Math.round(count * installations));
    say(`| ${[second, ...all, Math.round(p50), Math.round(p99), ...busy].join(' | ')} |`);
  }
  const needed = Math.ceil((Number(values.rate) * perRequestMs(COSTS.redis)) / 1000 / 0.7);
  if (needed > installations)
    say(
      `\nOne Redis serves about ${Math.round((0.7 * 1000) / perRequestMs(COSTS.redis))} requests/s at 70 % of its core. ` +
        `${values.rate} requests/s take ${needed} installations: --redis ${needed}`,
    );
}

/** Clients that each send the next request after the previous answer. */
function closedLoop(costs: Costs, size: Size, clients: number, seconds: number) {
  const clock = new Clock();
  const simulated = new SimulatedSluice(clock, costs, size);
  let n = 0;
  const client = () => simulated.send(tokensOf(n++), client);
  for (let i = 0; i < clients; i++) client();
  clock.runUntil(2_000);
  const before = simulated.ended.length;
  clock.runUntil(2_000 + 1000 * seconds);
  return summary(simulated.ended.slice(before), seconds);
}

/** Concurrent clients of the two runs that measure the costs, and of the runs that are compared with the simulation. */
const CLIENTS = { costs: [12, 96], compared: [8, 16, 64, 128] } as const;

type Server = Awaited<ReturnType<typeof sluice.start>>;

/** What the requests of a run cost. */
interface Sample {
  messagesPerRequest: number;
  runsPerRequest: number;
  /** Processor time of a request in milliseconds, by part. */
  partMs: Readonly<Record<'gateway' | 'worker' | 'redis' | 'model', number>>;
  /** Processor time of all cores divided by the requests. */
  coresMs: number;
}

/** Measures what requests cost with this number of clients. */
async function sample(server: Server, clients: number): Promise<Sample> {
  const before = await server.done();
  const { result, processorMs } = await measured(server.processes, () =>
    load(server, sentences, { clients, seconds: 2 }),
  );
  const after = await server.done();
  const of = (part: string) => (processorMs[part] ?? 0) / result.requests;
  return {
    messagesPerRequest: (after.messages - before.messages) / result.requests,
    runsPerRequest: (after.runs - before.runs) / result.requests,
    partMs: { gateway: of('gateway'), worker: of('worker'), redis: of('redis'), model: of('model') },
    coresMs: (1000 * availableParallelism() * result.seconds) / result.requests,
  };
}

/** The mean of some samples. */
function meanSample(samples: readonly Sample[]): Sample {
  const mean = (of: (one: Sample) => number) =>
    samples.reduce((sum, one) => sum + of(one), 0) / samples.length;
  return {
    messagesPerRequest: mean((one) => one.messagesPerRequest),
    runsPerRequest: mean((one) => one.runsPerRequest),
    partMs: {
      gateway: mean(({ partMs }) => partMs.gateway),
      worker: mean(({ partMs }) => partMs.worker),
      redis: mean(({ partMs }) => partMs.redis),
      model: mean(({ partMs }) => partMs.model),
    },
    coresMs: mean((one) => one.coresMs),
  };
}

/** Slope and intercept of the line through two points, both at least 0. */
function line(one: readonly [x: number, y: number], other: readonly [x: number, y: number]) {
  const slope = one[0] === other[0] ? 0 : Math.max(0, (one[1] - other[1]) / (one[0] - other[0]));
  return { slope, fixed: Math.max(0, other[1] - slope * other[0]) };
}

/** The costs that explain what was measured with few clients, whose requests hardly share messages, and with many. */
function costsOf(few: Sample, many: Sample): Costs {
  const part = (name: 'gateway' | 'worker' | 'redis') => {
    const { slope, fixed } = line(
      [few.messagesPerRequest, few.partMs[name]],
      [many.messagesPerRequest, many.partMs[name]],
    );
    return { requestMs: fixed, messageMs: slope };
  };
  const model = line([few.runsPerRequest, few.partMs.model], [many.runsPerRequest, many.partMs.model]);
  const used = Object.values(many.partMs).reduce((sum, ms) => sum + ms, 0);
  return {
    gateway: part('gateway'),
    worker: part('worker'),
    redis: part('redis'),
    // With many clients the cores are busy, so the rest of their time is the client's.
    clientMs: Math.max(0, many.coresMs - used),
    msPerRun: model.slope,
    msPerToken: model.fixed / meanTokens,
  };
}

/** The runs of a comparison are divided into this many rounds, because the speed of a shared machine changes. */
const ROUNDS = 5;

/** Compares real runs on this machine with the simulation. In each round the costs are measured before and after the compared run. */
async function check(): Promise<boolean> {
  const server = await sluice.start();
  const cores = availableParallelism();
  const size: Size = { gateways: 1, workers: 1, processes: cores, cores, oneMachine: true };
  try {
    await load(server, sentences, { clients: 64, seconds: 3 });
    say(
      '| clients | requests/s measured | simulated | | p50 measured | simulated | gateway, worker, Redis: ms per request + per message | model: ms per run + per token |\n| --- | --- | --- | --- | --- | --- | --- | --- |',
    );
    let all = true;
    for (const clients of CLIENTS.compared) {
      const [few, real, many]: [Sample[], Load[], Sample[]] = [[], [], []];
      for (let round = 0; round < ROUNDS; round++) {
        few.push(await sample(server, CLIENTS.costs[0]));
        real.push(await load(server, sentences, { clients, seconds: 3 }));
        many.push(await sample(server, CLIENTS.costs[1]));
      }
      const costs = costsOf(meanSample(few), meanSample(many));
      const sum = (of: (one: Load) => number) => real.reduce((total, one) => total + of(one), 0);
      const rate = sum((one) => one.requests) / sum((one) => one.seconds);
      const { answered, p50 } = closedLoop(costs, size, clients, 20);
      const difference = answered / rate - 1;
      all &&= Math.abs(difference) <= TOLERANCE;
      const parts = [costs.gateway, costs.worker, costs.redis].map(
        ({ requestMs, messageMs }) => `${requestMs.toFixed(2)} + ${messageMs.toFixed(2)}`,
      );
      const model = `${costs.msPerRun.toFixed(2)} + ${costs.msPerToken.toFixed(3)}`;
      say(
        `| ${clients} | ${rate.toFixed(0)} | ${answered.toFixed(0)} | ${(100 * difference).toFixed(0)} % | ${(sum((one) => one.p50) / ROUNDS).toFixed(0)} ms | ${p50.toFixed(0)} ms | ${parts.join(', ')} | ${model} |`,
      );
    }
    return all;
  } finally {
    await server.stop();
  }
}

if (values.help) say(USAGE);
else if (values.check) process.exit((await check()) ? 0 : 1);
else {
  simulate();
  process.exit(0);
}
