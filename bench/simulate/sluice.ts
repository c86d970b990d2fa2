import { refusalOf } from '../../apps/gateway/src/admission/prediction.js';
import { type MicroBatchLimits, nextMicroBatch } from '../../apps/worker/src/microbatch/batcher.js';
import { Throughput } from '../../apps/worker/src/microbatch/throughput.js';
import { Prefetch } from '../../apps/worker/src/queue/prefetch.js';
import type { Clock } from './clock.js';
import { Machine, type Process } from './machine.js';

/** Processor time that a part needs for each request, and in addition for each message, in milliseconds. */
interface PartCost {
  requestMs: number;
  messageMs: number;
}

/** What the parts cost, in milliseconds of processor time. */
export interface Costs {
  gateway: PartCost;
  worker: PartCost;
  redis: PartCost;
  /** Of the client that sends a request. */
  clientMs: number;
  /** Of a run of a model, and of each of its tokens, padding included. */
  msPerRun: number;
  msPerToken: number;
}

export interface Size {
  gateways: number;
  workers: number;
  /** Model processes of a worker. */
  processes: number;
  /** Cores of each machine of a worker. */
  cores: number;
  /** Whether everything runs on one machine with this many cores. */
  oneMachine: boolean;
}

/** Defaults of the settings. */
const TIMEOUT_MS = 5_000;
const MICRO_BATCH_ROWS = 8;
const MICRO_BATCH_TOKENS = 1_024;
/** As in the dispatcher, the reader, the heartbeats and admission. */
const ITEMS_PER_MESSAGE = 16;
const BUSY_ROWS_PER_PROCESS = 8;
const MAX_PAUSE_MS = 5;
const PAUSE_SHARE = 0.1;
const COMMAND_TIMEOUT_MS = 800;
const LOCK_MS = 1_500;
const STALLED_EVERY_MS = 750;
const HEARTBEAT_EVERY_MS = 1_000;
const HEARTBEAT_TTL_MS = 3_000;
const SHARE_EVERY_MS = 250;
/** A round trip between two machines, in milliseconds. This value and the two shares below are assumptions. */
const NETWORK_MS = 0.2;
/** Share of a gateway's and a worker's work that precedes the inference. */
const BEFORE = 0.6;
/** Share of Redis's work for a request that precedes the inference. */
const REDIS_BEFORE = 0.75;

interface Item {
  tokens: number;
  rows: readonly [null];
  group: '';
  sentMs: number;
  ended: boolean;
  gateway: Gateway;
  onEnd: (status: Status) => void;
}

interface Message {
  items: Item[];
  unansweredRows: number;
}

type Status = 200 | 408 | 503;
export interface Ended {
  status: Status;
  sentMs: number;
  endMs: number;
}

/** Gateways, a Redis and workers: the real batcher, prefetch, rate and admission with modelled processes. */
export class SimulatedSluice {
  readonly ended: Ended[] = [];
  #clock: Clock;
  #costs: Costs;
  #size: Size;
  #redis: Process;
  #gateways: Gateway[] = [];
  #workers: SimulatedWorker[] = [];
  #queue: Message[] = [];
  #nextGateway = 0;
  #nextWorker = 0;
  #client: Process;

  constructor(clock: Clock, costs: Costs, size: Size) {
    this.#clock = clock;
    this.#costs = costs;
    this.#size = size;
    const shared = size.oneMachine ? new Machine(clock, size.cores) : undefined;
    const machine = (cores: number) => shared ?? new Machine(clock, cores);
    this.#redis = machine(1).start();
    // Many clients have many machines.
    this.#client = shared?.start() ?? {
      run: (_ms, onDone) => onDone(),
      usedMs: 0,
      waitingMs: 0,
      kill: () => {},
    };
    for (let i = 0; i < size.gateways; i++) this.#gateways.push(new Gateway(machine(1).start()));
    for (let i = 0; i < size.workers; i++)
      this.#workers.push(new SimulatedWorker(clock, machine(size.cores), this));
    clock.every(SHARE_EVERY_MS, () => this.#share());
  }

  get costs(): Costs {
    return this.#costs;
  }

  get size(): Size {
    return this.#size;
  }

  get queue(): Message[] {
    return this.#queue;
  }

  get redis(): Process {
    return this.#redis;
  }

  get gateways(): readonly Gateway[] {
    return this.#gateways;
  }

  get workers(): readonly SimulatedWorker[] {
    return this.#workers;
  }

  get networkMs(): number {
    return this.#size.oneMachine ? 0 : NETWORK_MS;
  }

  /** Workers whose heartbeat has not expired. */
  get seen(): readonly SimulatedWorker[] {
    return this.#workers.filter((worker) => this.#clock.nowMs - worker.heartbeatMs < HEARTBEAT_TTL_MS);
  }

  get #rowsPerSecond(): number {
    return this.seen.reduce((sum, worker) => sum + worker.reportedRate, 0);
  }

  /** Gateways tell each other how many rows are unanswered; workers report their rates. */
  #share(): void {
    const rows = this.#gateways.reduce((sum, gateway) => sum + gateway.unanswered, 0);
    const rate = this.#rowsPerSecond;
    for (const gateway of this.#gateways) {
      gateway.otherRows = rows - gateway.unanswered;
      gateway.rowsPerSecond = rate;
    }
  }

  /** A client sends a request with this number of tokens. */
  send(tokens: number, onEnd: (ended: Ended) => void = () => {}): void {
    const gateway = this.#gateways[this.#nextGateway++ % this.#gateways.length];
    if (gateway === undefined) return;
    const sentMs = this.#clock.nowMs;
    const { gateway: cost, clientMs } = this.#costs;
    const end = (status: Status) => {
      const ended = { status, sentMs, endMs: this.#clock.nowMs };
      this.ended.push(ended);
      onEnd(ended);
    };
    this.#client.run(clientMs, () => {
      gateway.process.run(BEFORE * cost.requestMs, () => {
        const ahead = {
          rowsPerSecond: gateway.rowsPerSecond || this.#rowsPerSecond,
          ownRows: gateway.unanswered,
          otherRows: gateway.otherRows,
          otherGateways: this.#gateways.length - 1,
          rowsBefore: 0,
        };
        if (refusalOf(ahead, 1, TIMEOUT_MS)) {
          end(503);
          return;
        }
        gateway.unanswered++;
        const item: Item = {
          tokens,
          rows: [null],
          group: '',
          sentMs: this.#clock.nowMs,
          ended: false,
          gateway,
          onEnd: (status) => {
            if (item.ended) return;
            item.ended = true;
            gateway.unanswered--;
            if (status !== 200) end(status);
            else gateway.process.run((1 - BEFORE) * cost.requestMs, () => end(200));
          },
        };
        this.#clock.after(TIMEOUT_MS, () => item.onEnd(408));
        gateway.pending.push(item);
        this.#add(gateway);
      });
    });
  }

  /** Puts the pending items of a gateway into messages, with one call to Redis at a time. Under load it waits for more items first. */
  #add(gateway: Gateway): void {
    if (gateway.adding || gateway.pending.length === 0) return;
    gateway.adding = true;
    const rowsAhead = this.#rowsAhead(gateway);
    const workMs =
      (1000 * rowsAhead) / (gateway.rowsPerSecond || this.#rowsPerSecond || Number.POSITIVE_INFINITY);
    const pauseMs = this.#areWorkersBusy(rowsAhead) ? Math.min(MAX_PAUSE_MS, PAUSE_SHARE * workMs) : 0;
    if (pauseMs < 1) this.#addNow(gateway);
    else this.#clock.after(pauseMs, () => this.#addNow(gateway));
  }

  /** Rows of all gateways that are in messages. */
  #rowsAhead(gateway: Gateway): number {
    return gateway.unanswered + gateway.otherRows - gateway.pending.length;
  }

  #areWorkersBusy(rowsAhead: number): boolean {
    return rowsAhead >= BUSY_ROWS_PER_PROCESS * this.seen.length * this.#size.processes;
  }

  #addNow(gateway: Gateway): void {
    const isBusy = this.#areWorkersBusy(this.#rowsAhead(gateway));
    const pending = gateway.pending.splice(0);
    const added = () => {
      gateway.adding = false;
      this.#add(gateway);
    };
    // Redis does not answer in time.
    if (this.#redis.waitingMs > COMMAND_TIMEOUT_MS) {
      this.#clock.after(COMMAND_TIMEOUT_MS, () => {
        for (const item of pending) item.onEnd(503);
        added();
      });
      return;
    }
    const processes = this.seen.length * this.#size.processes;
    const size = isBusy
      ? ITEMS_PER_MESSAGE
      : Math.min(ITEMS_PER_MESSAGE, Math.ceil(pending.length / (2 * Math.max(1, processes))));
    const unansweredRows = gateway.unanswered + gateway.otherRows;
    const messages: Message[] = [];
    for (let i = 0; i < pending.length; i += size)
      messages.push({ items: pending.slice(i, i + size), unansweredRows });
    const { gateway: gatewayCost, redis } = this.#costs;
    gateway.process.run(gatewayCost.messageMs * messages.length, () =>
      this.#clock.after(this.networkMs, () =>
        this.#redis.run(
          REDIS_BEFORE * redis.requestMs * pending.length + redis.messageMs * messages.length,
          () => {
            for (const message of messages) this.requeue(message);
            added();
          },
        ),
      ),
    );
  }

  /** Puts a message into the queue. The next worker that holds fewer rows than its maximum takes it. */
  requeue(message: Message): void {
    this.#queue.push(message);
    for (let i = 0; i < this.#workers.length && this.#queue.length > 0; i++)
      this.#workers[this.#nextWorker++ % this.#workers.length]?.fetch();
  }
}

/** A gateway. */
class Gateway {
  unanswered = 0;
  otherRows = 0;
  rowsPerSecond = 0;
  pending: Item[] = [];
  adding = false;

  constructor(readonly process: Process) {}
}

/** A worker with its model processes. */
class SimulatedWorker {
  heartbeatMs = 0;
  reportedRate: number;
  #dead = false;
  #clock: Clock;
  #sluice: SimulatedSluice;
  #process: Process;
  #models: { process: Process; busy: boolean }[];
  #pending: Item[] = [];
  #held = new Set<Message>();
  #heldRows = 0;
  #throughput: Throughput;
  #prefetch: Prefetch;
  #limits: MicroBatchLimits;

  constructor(clock: Clock, machine: Machine, sluice: SimulatedSluice) {
    const { costs, size } = sluice;
    this.#clock = clock;
    this.#sluice = sluice;
    this.#process = machine.start();
    this.#models = Array.from({ length: size.processes }, () => ({ process: machine.start(), busy: false }));
    this.#throughput = new Throughput(costs.msPerRun / MICRO_BATCH_ROWS + 20 * costs.msPerToken);
    this.reportedRate = this.#throughput.rowsPerSecond * size.processes;
    this.#prefetch = new Prefetch({
      processes: size.processes,
      microBatchRows: MICRO_BATCH_ROWS,
      fleetProcesses: () => size.processes * sluice.seen.length,
    });
    this.#limits = {
      rows: MICRO_BATCH_ROWS,
      tokens: MICRO_BATCH_TOKENS,
      runCostTokens: costs.msPerRun / costs.msPerToken,
    };
    clock.every(HEARTBEAT_EVERY_MS, () => {
      if (this.#dead) return;
      this.heartbeatMs = clock.nowMs;
      this.reportedRate = this.#throughput.rowsPerSecond * size.processes;
    });
  }

  /** Takes a message if it holds fewer rows than it may. */
  fetch(): void {
    if (this.#dead || this.#heldRows >= this.#prefetch.maxRows) return;
    const message = this.#sluice.queue.shift();
    if (message === undefined) return;
    this.#prefetch.record(message.unansweredRows);
    this.#held.add(message);
    this.#heldRows += message.items.length;
    const { worker } = this.#sluice.costs;
    this.#clock.after(this.#sluice.networkMs, () =>
      this.#process.run(BEFORE * worker.requestMs * message.items.length + worker.messageMs, () => {
        this.#pending.push(...message.items.filter(({ ended }) => !ended));
        this.#heldRows -= message.items.filter(({ ended }) => ended).length;
        this.#runNext();
        this.fetch();
      }),
    );
  }

  #runNext(): void {
    for (const model of this.#models) {
      if (model.busy || this.#pending.length === 0) continue;
      this.#heldRows -= this.#pending.filter(({ ended }) => ended).length;
      this.#pending = this.#pending.filter(({ ended }) => !ended);
      const microBatch = nextMicroBatch(this.#pending, this.#limits);
      if (microBatch === undefined) return;
      const chosen = new Set(microBatch);
      this.#pending = this.#pending.filter((item) => !chosen.has(item));
      model.busy = true;
      const { msPerRun, msPerToken, worker, redis } = this.#sluice.costs;
      const longest = Math.max(...microBatch.map(({ tokens }) => tokens));
      const startMs = this.#clock.nowMs;
      model.process.run(msPerRun + msPerToken * longest * microBatch.length, () => {
        model.busy = false;
        const nowMs = this.#clock.nowMs;
        this.#throughput.record({
          lane: 'interactive',
          rows: microBatch.length,
          busyMs: nowMs - startMs,
          nowMs,
        });
        this.#heldRows -= microBatch.length;
        this.#process.run((1 - BEFORE) * worker.requestMs * microBatch.length, () => {
          this.#sluice.redis.run((1 - REDIS_BEFORE) * redis.requestMs * microBatch.length, () =>
            this.#clock.after(this.#sluice.networkMs, () => {
              for (const item of microBatch) item.onEnd(200);
              for (const message of this.#held)
                if (message.items.every(({ ended }) => ended)) this.#held.delete(message);
            }),
          );
        });
        this.#runNext();
        this.fetch();
      });
    }
  }

  /** Dies. Its messages are taken by others when their locks have expired and a worker checks for stalled messages. */
  kill(): void {
    this.#dead = true;
    for (const process of [this.#process, ...this.#models.map((model) => model.process)]) process.kill();
    this.#clock.after(LOCK_MS + STALLED_EVERY_MS, () => {
      for (const { items, ...message } of this.#held) {
        const left = items.filter(({ ended }) => !ended);
        if (left.length > 0) this.#sluice.requeue({ ...message, items: left });
      }
      this.#held.clear();
    });
  }

  /** Processor time of the worker itself and of its model processes, in milliseconds. */
  get usedMs(): { worker: number; models: number } {
    return {
      worker: this.#process.usedMs,
      models: this.#models.reduce((sum, { process }) => sum + process.usedMs, 0),
    };
  }
}
