// The soak: seeded faults under mixed traffic, and a checker of the guarantees. `npm run soak -- --help` lists the options.
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { root } from '../harness.js';
import { BUILDS, type Build, makeBuild } from './builds.js';
import { Checker } from './checker.js';
import { FAULT_KINDS, type FaultKind, type FaultRecord, Faults } from './faults.js';
import { Fleet, MODELS } from './fleet.js';
import { Random } from './random.js';
import { Traffic } from './traffic.js';

const FAULTS_PER_SEED = 10;
/**
 * In every third seed the faults do not overlap: each one starts after the fleet has recovered from the one before. A failure there has
 * only one possible cause.
 */
const APART_EVERY_SEEDS = 3;
const FAULTS_APART = 5;
const QUIET_APART_MS = 1_500;
/** After this many seeds each kind of fault must have happened. */
const SEEDS_WITH_ALL_KINDS = 30;
/** After the last fault of a seed the fleet must be ready again within this time. */
const RECOVERY_MS = 30_000;
/** Time after the recovery in which a fault may still delay requests. */
const DELAYED_MS = 1_500;
/** No fault is in progress for this long at the end of a seed. */
const QUIET_MS = 3_000;
/** A process that exceeds these has a leak. */
const MOST_FILES = 300;
const MOST_MEGABYTES = 700;

const USAGE = `npm run soak -- [options]

  --minutes N   run for about N minutes (20)
  --seconds N   the same in seconds
  --seeds N     run N seeds
  --seed N      the first seed (1)
  --faults LIST only these kinds of faults, separated by commas, such as "pause Redis,kill worker"
  --recovery    inject faults of each kind alone, to measure how soon requests are answered again
  --prove       run each broken build until the checker reports its fault, for at most 200 seeds
  --build NAME  with --prove: only this build
`;

/** Ends the process because of a wrong option. */
function wrongUse(message: string): never {
  console.error(`✗ ${message}\n\n${USAGE}`);
  process.exit(2);
}

function readOptions() {
  try {
    return parseArgs({
      options: {
        minutes: { type: 'string' },
        seconds: { type: 'string' },
        seeds: { type: 'string' },
        seed: { type: 'string' },
        faults: { type: 'string' },
        recovery: { type: 'boolean', default: false },
        prove: { type: 'boolean', default: false },
        build: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    return wrongUse(error instanceof Error ? error.message : String(error));
  }
}

const values = readOptions();

interface Plan {
  root: string;
  firstSeed: number;
  seeds: number;
  seconds: number;
  kinds: readonly FaultKind[];
  /** Whether the first violation ends the run. */
  stopAtViolation: boolean;
  /** Whether each seed injects one fault of each kind, the next one only when the fleet has recovered. */
  recovery: boolean;
}

/** Names in Redis that may remain when no job exists. */
const MAY_REMAIN =
  /^\{sluice\}:(key:|keys$|usage(-report)?:|limit:|refund:|reads:|streams:|failed-auth:|replies:|worker:|workers$|tokenizer:|gateways?:|unanswered:|webhooks:(meta|events|id|marker|stalled-check|stalled)$|webhook-deliveries:|sweep$|probe$|counts$)|-(bulk|interactive):(meta|events|marker|stalled-check|id|stalled)$/;

async function soak({ root: folder, firstSeed, seeds, seconds, kinds, stopAtViolation, recovery }: Plan) {
  const startMs = performance.now();
  const checker = new Checker();
  const faults: FaultRecord[] = [];
  const fleet = await Fleet.start(folder);
  const traffic = new Traffic(fleet, checker);
  fleet.onUnexpected = (what) => checker.violate('unexpected-exit', what);
  /** Waits until the last fault has no effect any more; then every request must be answered with 200 for this long. */
  const quiet = async (ms: number) => {
    await fleet
      .whenReady(RECOVERY_MS)
      .catch((error: Error) => checker.violate('not-recovered', error.message));
    await delay(DELAYED_MS);
    traffic.quiet = true;
    await delay(ms);
    traffic.quiet = false;
  };
  let done = 0;
  try {
    await traffic.prepare();
    while (done < seeds && performance.now() - startMs < 1_000 * seconds) {
      checker.seed = firstSeed + done;
      const random = new Random(checker.seed);
      const own = new Faults(fleet, checker, random.fork());
      traffic.start(random.fork(), own.records);
      if (recovery || checker.seed % APART_EVERY_SEEDS === 0) {
        for (const kind of recovery ? kinds : own.choose(kinds, FAULTS_APART)) {
          await own.inject([kind]);
          await quiet(QUIET_APART_MS);
        }
      } else await own.inject(own.choose(kinds, FAULTS_PER_SEED));
      await quiet(QUIET_MS);
      await traffic.finish();
      faults.push(...own.records);
      await checkRest(fleet, checker);
      done++;
      if (stopAtViolation && checker.violations.length > 0) break;
    }
  } finally {
    traffic.close();
    await fleet.close();
  }
  if (done >= SEEDS_WITH_ALL_KINDS)
    for (const kind of kinds)
      if (!faults.some((fault) => fault.kind === kind)) checker.violate('fault-missing', kind);
  return { checker, faults, seeds: done, seconds: (performance.now() - startMs) / 1_000 };
}

/** Checks Redis and the processes when there is nothing to do. */
async function checkRest(fleet: Fleet, checker: Checker): Promise<void> {
  const untilMs = performance.now() + 10_000;
  let left: string[] = [];
  do {
    left = (await fleet.lasting()).filter((name) => !MAY_REMAIN.test(name));
    if (left.length > 0) await delay(200);
  } while (left.length > 0 && performance.now() < untilMs);
  if (left.length > 0) checker.violate('left-in-redis', left.slice(0, 20).join(' '));
  const unfinished = await fleet.unfinishedCounts();
  if (unfinished.length > 0) checker.violate('left-in-redis', `counts ${unfinished.join(', ')}`);
  const orphans = fleet.orphans();
  if (orphans.length > 0) checker.violate('left-processes', orphans.join(', '));
  for (const member of fleet.members) {
    const { files, megabytes } = fleet.size(member);
    const children = member.kind === 'worker' ? fleet.modelProcesses(member).length : 0;
    const wanted = member.kind === 'worker' ? Object.keys(MODELS).length : 0;
    if (files > MOST_FILES || megabytes > MOST_MEGABYTES || children !== wanted)
      checker.violate('leak', `${member.name}: ${files} files, ${megabytes} MB, ${children} children`);
  }
}

function median(values: readonly number[]): number {
  return values.toSorted((one, other) => one - other)[Math.floor(values.length / 2)] ?? Number.NaN;
}

/** Requests that were sent this long after a fault count as near it. */
const NEAR_MS = 5_000;

/**
 * The effect of a kind of fault on interactive requests: the times from its start until a request that was sent after that start is
 * answered, and the requests that were in progress or sent between its start and {@link NEAR_MS} after its end. Other faults may have
 * affected the same requests.
 * @param interactive in the order in which they ended
 */
function effects(interactive: Checker['interactive'], faults: readonly FaultRecord[]) {
  const near = interactive.filter(({ sentMs, endMs }) =>
    faults.some((fault) => endMs >= fault.startMs && sentMs <= (fault.endMs ?? fault.startMs) + NEAR_MS),
  );
  const count = (...statuses: (number | 'broken')[]) =>
    near.filter(({ status }) => statuses.includes(status)).length;
  const failures = [count(503), count(408), count('broken')];
  return {
    recoveryMs: faults.flatMap(({ startMs }) => {
      const next = interactive.find(({ status, sentMs }) => status === 200 && sentMs >= startMs);
      return next ? [next.endMs - startMs] : [];
    }),
    numbers: [near.length, ...failures, near.length - count(200, 503, 408, 'broken')],
  };
}

function report({ checker, faults, seeds, seconds }: Awaited<ReturnType<typeof soak>>): void {
  const { counts, violations } = checker;
  const interactive = checker.interactive.toSorted((one, other) => one.endMs - other.endMs);
  console.log(`
${seeds} seeds in ${Math.round(seconds)} s. For each kind of fault: time until the next answer, and interactive requests near it:

| fault | count | median | longest | requests | 503 | 408 | connection broke | other errors |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |`);
  for (const kind of FAULT_KINDS) {
    const own = faults.filter((fault) => fault.kind === kind);
    if (own.length === 0) continue;
    const { recoveryMs, numbers } = effects(interactive, own);
    const times = [median(recoveryMs), Math.max(...recoveryMs)].map((ms) => `${Math.round(ms)} ms`);
    console.log(`| ${[kind, own.length, ...times, ...numbers].join(' | ')} |`);
  }
  console.log(`
requests    ${counts.requests}: ${counts.answers} answered, ${counts.refused} refused, ${counts.timedOut} timed out, ${counts.failed} failed, ${counts.broken} connections broken
jobs        ${counts.jobs}, results ${counts.results}, deliveries of webhooks ${counts.deliveries}
faults      ${faults.length}
violations  ${violations.length}`);
}

/**
 * Runs broken builds until the checker finds them. Resolves to whether it found all.
 * @param kinds of faults; undefined: those that each build needs
 */
async function prove(
  builds: readonly Build[],
  firstSeed: number,
  kinds: readonly FaultKind[] | undefined,
): Promise<boolean> {
  const lines: string[] = [];
  let all = true;
  for (const build of builds) {
    console.log(`\n# ${build.name}: ${build.what}`);
    const folder = makeBuild(build);
    const plan = {
      root: folder.path,
      firstSeed,
      seeds: 200,
      kinds: kinds ?? build.kinds ?? FAULT_KINDS,
      seconds: Number.POSITIVE_INFINITY,
      stopAtViolation: true,
      recovery: false,
    };
    const { checker, seeds } = await soak(plan).finally(() => folder.remove());
    const names = [...new Set(checker.violations.map(({ name }) => name))];
    const found = names.some((name) => build.violates.includes(name));
    all &&= found;
    lines.push(
      `| ${build.name} | ${found ? `found after ${seeds} seeds` : 'NOT FOUND'} | ${names.join(', ')} |`,
    );
  }
  console.log(`\n| broken build | | violations |\n| --- | --- | --- |\n${lines.join('\n')}`);
  return all;
}

for (const name of ['minutes', 'seconds', 'seeds', 'seed'] as const) {
  const value = values[name];
  if (value !== undefined && !(Number(value) > 0)) wrongUse(`--${name} must be a number above 0`);
}
const chosen = values.faults?.split(',');
for (const kind of chosen ?? [])
  if (!FAULT_KINDS.some((known) => known === kind))
    wrongUse(`--faults: unknown kind "${kind}". Known kinds: ${FAULT_KINDS.join(', ')}`);
const kinds = FAULT_KINDS.filter((kind) => chosen === undefined || chosen.includes(kind));
if (values.build !== undefined && !values.prove) wrongUse('--build needs --prove');
if (values.help) console.log(USAGE);
else if (values.prove) {
  const builds = BUILDS.filter(({ name }) => values.build === undefined || name === values.build);
  if (builds.length === 0)
    wrongUse(
      `--build: unknown build "${values.build}". Known builds: ${BUILDS.map(({ name }) => name).join(', ')}`,
    );
  // Connections that a fault has left open would keep this process alive.
  process.exit((await prove(builds, Number(values.seed ?? 1), chosen && kinds)) ? 0 : 1);
} else {
  const result = await soak({
    root,
    firstSeed: Number(values.seed ?? 1),
    kinds,
    seeds: Number(values.seeds ?? Number.POSITIVE_INFINITY),
    seconds:
      values.seeds && !values.minutes && !values.seconds
        ? Number.POSITIVE_INFINITY
        : Number(values.seconds ?? 60 * Number(values.minutes ?? 20)),
    stopAtViolation: false,
    recovery: values.recovery,
  });
  report(result);
  process.exit(result.checker.violations.length === 0 && result.seeds > 0 ? 0 : 1);
}
