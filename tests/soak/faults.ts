import { setTimeout as delay } from 'node:timers/promises';
import { type App, catchesSignals, isRunning, until } from '../harness.js';
import type { Checker } from './checker.js';
import { DRAIN_SECONDS, type Fleet, type Member, pause } from './fleet.js';
import type { Random } from './random.js';

/** A fault that happened. */
export interface FaultRecord {
  kind: FaultKind;
  startMs: number;
  /** Undefined while it is in progress. */
  endMs?: number;
  /** The gateway that was paused; its clients wait meanwhile. */
  paused?: Member;
  /** Whether a gateway may miss the confirmation that Redis took a slot, so that a 503 keeps its slot. */
  cuts: boolean;
}

/** A drain may exceed DRAIN_SECONDS by this much on a busy machine, in milliseconds. */
const DRAIN_SLACK_MS = 3_000;
const MAX_PAUSE_MS = 10_000;

export const FAULT_KINDS = [
  'kill gateway',
  'kill worker',
  'kill model process',
  'pause gateway',
  'pause worker',
  'pause model process',
  'drain gateway',
  'drain worker',
  'restart Redis',
  'pause Redis',
  'fail over',
  'fill Redis',
  'kill connections',
  'add latency',
  'reset connections',
  'hang connections',
] as const;
export type FaultKind = (typeof FAULT_KINDS)[number];

/** Only one of these faults is in progress at a time. */
const SHARED: readonly FaultKind[] = [
  'restart Redis',
  'pause Redis',
  'fail over',
  'fill Redis',
  'hang connections',
];

/** Injects faults, one after the other or several at once, as a seed decides. */
export class Faults {
  readonly records: FaultRecord[] = [];
  #fleet: Fleet;
  #checker: Checker;
  #random: Random;
  #running = new Set<Promise<void>>();
  #sharedBusy = false;

  constructor(fleet: Fleet, checker: Checker, random: Random) {
    this.#fleet = fleet;
    this.#checker = checker;
    this.#random = random;
  }

  /** Chooses from these kinds at random, `count` times. */
  choose(kinds: readonly FaultKind[], count: number): FaultKind[] {
    return Array.from({ length: count }, () => this.#random.pick(kinds));
  }

  /** Injects faults of these kinds, which may overlap; resolves when all have ended. */
  async inject(kinds: readonly FaultKind[]): Promise<void> {
    for (const kind of kinds) {
      const running = this.#begin(kind).catch((error: unknown) =>
        this.#checker.violate('not-recovered', `${kind}: ${error instanceof Error ? error.message : error}`),
      );
      this.#running.add(running);
      void running.finally(() => this.#running.delete(running));
      await delay(this.#random.int(100, 1_500));
    }
    await Promise.all(this.#running);
  }

  async #begin(kind: FaultKind): Promise<void> {
    const random = this.#random;
    // All decisions are made now, in the order of the seed.
    const target = random.int(0, 1_000);
    const ms = pauseMs(random);
    if (SHARED.includes(kind)) {
      while (this.#sharedBusy) await delay(20);
      this.#sharedBusy = true;
    }
    const record: FaultRecord = {
      kind,
      startMs: performance.now(),
      cuts: /gateway|Redis|fail over|connections|latency/.test(kind) && kind !== 'pause Redis',
    };
    this.records.push(record);
    try {
      const happened = await this.#run(kind, target, ms, record);
      // No process was free, or the servers were not in sync.
      if (!happened) this.records.splice(this.records.indexOf(record), 1);
    } finally {
      record.endMs = performance.now();
      if (SHARED.includes(kind)) this.#sharedBusy = false;
    }
  }

  /** Resolves to whether it did something. */
  async #run(kind: FaultKind, target: number, ms: number, record: FaultRecord): Promise<boolean> {
    const { proxy } = this.#fleet;
    switch (kind) {
      case 'kill gateway':
      case 'kill worker':
        return this.#withMember(kind, target, async ({ app }) => {
          app.child.kill('SIGKILL');
          await app.exit();
        });
      case 'pause gateway':
      case 'pause worker':
        return this.#withMember(kind, target, async (member) => {
          if (member.kind === 'gateway') record.paused = member;
          await pause(member.app.pid, ms);
        });
      case 'drain gateway':
      case 'drain worker':
        return this.#withMember(kind, target, (member) => this.#drain(member));
      case 'kill model process': {
        const pid = this.#modelProcess(target);
        if (pid === undefined || !isRunning(pid)) return false;
        process.kill(pid, 'SIGKILL');
        return true;
      }
      case 'pause model process': {
        const pid = this.#modelProcess(target);
        if (pid === undefined || !isRunning(pid)) return false;
        await pause(pid, ms);
        return true;
      }
      case 'restart Redis':
        await this.#fleet.restartRedis();
        return true;
      case 'pause Redis':
        await pause(this.#fleet.redisPid, Math.min(ms, 4_000));
        return true;
      case 'fail over':
        return this.#fleet.failOver();
      case 'fill Redis': {
        const { redis } = this.#fleet;
        await redis.config('SET', 'maxmemory', '1mb');
        await delay(Math.min(ms, 3_000));
        await redis.config('SET', 'maxmemory', '0');
        return true;
      }
      case 'kill connections':
        await this.#fleet.redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
        return true;
      case 'add latency':
        proxy.latencyMs = 10 + (target % 190);
        await delay(Math.min(ms, 3_000));
        proxy.latencyMs = 0;
        return true;
      case 'reset connections':
        proxy.reset();
        return true;
      case 'hang connections':
        proxy.hang();
        await delay(3_500);
        return true;
    }
  }

  /**
   * Calls `act` with a gateway or worker that no other fault affects. Resolves to false, without calling it, if fewer than two of
   * them are free.
   */
  async #withMember(
    kind: FaultKind,
    target: number,
    act: (member: Member) => Promise<void>,
  ): Promise<boolean> {
    const all = kind.endsWith('gateway') ? this.#fleet.gateways : this.#fleet.workers;
    const free = all.filter(({ busy }) => !busy);
    const member = free[target % free.length];
    // So that at least one gateway and one worker stay alive.
    if (member === undefined || free.length < 2) return false;
    member.busy = true;
    try {
      await act(member);
    } finally {
      member.busy = false;
    }
    return true;
  }

  async #drain(member: Member): Promise<void> {
    const { app, name } = member;
    await until(`the program of ${name} has begun`, () => catchesSignals(app.pid));
    const startMs = performance.now();
    app.child.kill('SIGTERM');
    const status = await app.exit();
    const ms = performance.now() - startMs;
    if (status !== 0 || ms > 1_000 * DRAIN_SECONDS + DRAIN_SLACK_MS)
      this.#checker.violate(
        'unexpected-exit',
        `${name} drained with ${status} in ${Math.round(ms)} ms: ${lastOutput(app)}`,
      );
  }

  #modelProcess(target: number): number | undefined {
    const free = this.#fleet.workers.filter(({ busy }) => !busy);
    const pids = free.flatMap((worker) => this.#fleet.modelProcesses(worker));
    return pids[target % pids.length];
  }
}

const lastOutput = (app: App) => app.output.slice(-2_000);

/** Short pauses are more frequent than long ones. */
function pauseMs(random: Random): number {
  const share = random.int(0, 1_000) / 1_000;
  return Math.round(100 + share ** 2 * (MAX_PAUSE_MS - 100));
}
