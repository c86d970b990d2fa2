import {
  CHUNK_ITEMS,
  type ChunkMessage,
  type FailedModelReport,
  type InteractiveMessage,
  type Lane,
  type Log,
  type ModelSpec,
  maxChunksInFlight,
  PREFIX,
  queueName,
  type RedisClock,
  type ServedModelReport,
} from '@sluice/shared';
import { type Task, taskNamed } from '@sluice/tasks';
import { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { Admission } from '../admission/admission.js';
import type { Storage } from '../admission/storage.js';
import { type Capacity, Dispatcher } from '../dispatch/dispatcher.js';
import type { ReplyReader } from '../dispatch/replyReader.js';
import { fromRedis, Problem } from '../http/problem.js';
import { Fleet } from './fleet.js';

/** Dispatcher and admission of one lane of a model. */
interface LaneEntry {
  dispatcher: Dispatcher;
  admission: Admission;
}

/** A configured model, with everything that this gateway needs to use it. */
export interface CatalogEntry {
  spec: ModelSpec;
  task: Task;
  bulkQueue: Queue<ChunkMessage>;
  lanes: Readonly<Record<Lane, LaneEntry>>;
  /** What the live workers report about it, as read recently. */
  reports(): readonly ServedModelReport[];
  /** What the model reports for its task; undefined until a live worker has. */
  facts(): unknown;
  /** Why live workers cannot serve it, as read recently; undefined if no live worker reports an error. */
  error(): FailedModelReport['error'] | undefined;
  close(): Promise<void>;
}

interface CatalogOptions {
  specs: readonly [ModelSpec, ...ModelSpec[]];
  redis: Redis;
  replies: ReplyReader;
  clock: RedisClock;
  storage: Storage;
  gatewayId: string;
  log: Log;
}

/** The configured models by id and alias. */
export class Catalog {
  #fleet: Fleet;
  #redis: Redis;
  #log: Log;
  #byName: ReadonlyMap<string, CatalogEntry>;
  /** All models, in the order of the configuration. */
  readonly entries: readonly [CatalogEntry, ...CatalogEntry[]];

  constructor({ specs, ...options }: CatalogOptions) {
    this.#redis = options.redis;
    this.#log = options.log;
    this.#fleet = new Fleet(options.redis, options.clock, options.storage, specs, options.log);
    const [first, ...others] = specs;
    const create = (spec: ModelSpec) => createEntry(spec, this.#fleet, options);
    this.entries = [create(first), ...others.map(create)];
    this.#byName = new Map(
      this.entries.flatMap((entry) =>
        [entry.spec.id, ...entry.spec.aliases].map((name) => [name, entry] as const),
      ),
    );
  }

  /** Ids and aliases of all models, each with the task of its model. */
  get names(): { name: string; task: ModelSpec['task'] }[] {
    return Array.from(this.#byName, ([name, { spec }]) => ({ name, task: spec.task }));
  }

  /** The model with an id or alias; undefined if it is not configured. */
  find(name: string): CatalogEntry | undefined {
    return this.#byName.get(name);
  }

  /** The default model of a task: the first configured one; undefined if there is no model for the task. */
  defaultFor(task: ModelSpec['task']): CatalogEntry | undefined {
    return this.entries.find(({ spec }) => spec.task === task);
  }

  /**
   * The model for a request: the named one, or the first one of the task.
   * @throws Problem `validation_failed` if there is no such model, or it has another task
   */
  select(name: string | undefined, task: ModelSpec['task']): CatalogEntry {
    const entry = this.selectAny(name, task);
    if (entry.spec.task === task) return entry;
    throw modelProblem(`${name} is a model for ${entry.spec.task}; this route needs one for ${task}`);
  }

  /**
   * The model for a request on a route that takes models of any task: the named one, or the first one of a task.
   * @throws Problem `validation_failed` if there is no such model
   */
  selectAny(name: string | undefined, defaultTask: ModelSpec['task']): CatalogEntry {
    const entry = name === undefined ? this.defaultFor(defaultTask) : this.#byName.get(name);
    if (entry) return entry;
    throw modelProblem(
      name === undefined
        ? `No model for ${defaultTask} is configured; name a model`
        : 'This model is not configured',
    );
  }

  /** The model that a path or a body names. @throws Problem `model_not_found` */
  named(name: string): CatalogEntry {
    const entry = this.#byName.get(name);
    if (entry) return entry;
    throw new Problem('model_not_found', {
      detail: `Not Found: no configured model has the id or alias "${name}"; GET /models lists them`,
    });
  }

  /**
   * The named model, or the first one of the task, for a route that needs this task.
   * @throws Problem `model_not_found` or `wrong_task`
   */
  forTask(name: string | undefined, task: ModelSpec['task']): CatalogEntry {
    const entry = name === undefined ? this.defaultFor(task) : this.named(name);
    if (entry?.spec.task === task) return entry;
    throw new Problem('wrong_task', {
      detail: entry
        ? `${entry.spec.id} is a model for ${entry.spec.task}; this route needs one for ${task}`
        : `No model for ${task} is configured`,
    });
  }

  /** How many chunks of one caller may be in flight for a model, also for one that is not configured any more. */
  maxChunksInFlight(modelId: string): number {
    return maxChunksInFlight(this.#fleet.workers, modelId);
  }

  /** Reads the reports of the live workers from Redis now. @throws Problem `unavailable` */
  async refresh(): Promise<void> {
    await fromRedis(this.#fleet.read());
  }

  /** Reads them if no live worker is known, as after a start. @throws Problem `unavailable` */
  async refreshIfUnknown(): Promise<void> {
    if (this.entries.every(({ reports }) => reports().length === 0)) await this.refresh();
  }

  /** Number of live workers that serve a configured model, as read recently. */
  get workerCount(): number {
    const specs = new Map(this.entries.map(({ spec }) => [spec.id, spec.hash]));
    return this.#fleet.workers.filter(({ models }) => models.some(({ id, hash }) => specs.get(id) === hash))
      .length;
  }

  /** The bulk queue of another configuration of a model; its user closes it. */
  otherBulkQueue(modelId: string, specHash: string): Queue<ChunkMessage> {
    const queue = new Queue<ChunkMessage>(
      queueName({ id: modelId, hash: specHash }, 'bulk'),
      queueOptionsOf(this.#redis),
    );
    queue.on('error', (err) => this.#log.debug({ err }, 'Queue error'));
    return queue;
  }

  async close(): Promise<void> {
    this.#fleet.close();
    await Promise.all(this.entries.map((entry) => entry.close()));
  }
}

function createEntry(
  spec: ModelSpec,
  fleet: Fleet,
  { redis, replies, clock, gatewayId, log }: Omit<CatalogOptions, 'specs'>,
): CatalogEntry {
  const queueOptions = queueOptionsOf(redis);
  const interactiveQueue = new Queue<InteractiveMessage>(queueName(spec, 'interactive'), queueOptions);
  // The bulk queue carries chunks of jobs, and the items of large requests.
  const bulkQueue = new Queue<ChunkMessage>(queueName(spec, 'bulk'), queueOptions);
  const bulkRequests = new Queue<InteractiveMessage>(bulkQueue.name, queueOptions);
  const queues = [interactiveQueue, bulkQueue, bulkRequests];
  for (const queue of queues) queue.on('error', (err) => log.debug({ err }, 'Queue error'));
  const reports = () => fleet.reportsOf(spec);
  const createLane = (
    lane: Lane,
    queue: Queue<InteractiveMessage>,
    readRowsBefore: () => Promise<number>,
  ): LaneEntry => {
    const dispatcher = new Dispatcher({
      redis,
      modelId: spec.id,
      lane,
      queue,
      replies,
      clock,
      gatewayId,
      capacity: () => capacityOf(reports()),
      unansweredRows: () => admission.unansweredRows,
      log,
    });
    const admission: Admission = new Admission({
      redis,
      clock,
      gatewayId,
      spec,
      lane,
      reports,
      error: () => fleet.errorOf(spec),
      refresh: () => fleet.read(),
      unansweredRows: () => dispatcher.unansweredRows,
      readRowsBefore,
      log,
    });
    return { dispatcher, admission };
  };
  const interactive = createLane('interactive', interactiveQueue, async () => 0);
  const bulk: LaneEntry = createLane('bulk', bulkRequests, async () => {
    // Its messages are chunks of jobs, and items of requests that are counted already.
    const rowsInQueue = CHUNK_ITEMS * (await bulkQueue.getWaitingCount());
    return interactive.admission.unansweredRows + Math.max(0, rowsInQueue - bulk.admission.unansweredRows);
  });
  const task = taskNamed(spec.task);
  return {
    spec,
    task,
    bulkQueue,
    lanes: { interactive, bulk },
    reports,
    facts: () => task.facts.safeParse(reports()[0]?.facts).data,
    error: () => fleet.errorOf(spec),
    close: async () => {
      await Promise.all([interactive.admission.close(), bulk.admission.close()]);
      await Promise.all(queues.map((queue) => queue.close()));
    },
  };
}

const capacityOf = (reports: readonly ServedModelReport[]): Capacity => ({
  processes: reports.reduce((sum, { processes }) => sum + processes, 0),
  rowsPerSecond: reports.reduce((sum, report) => sum + report.rowsPerSecond, 0),
  batching: reports.every(({ batching }) => batching),
});

const queueOptionsOf = (redis: Redis) => ({
  connection: redis,
  prefix: PREFIX,
  skipWaitingForReady: true,
  skipVersionCheck: true,
});

const modelProblem = (detail: string) =>
  new Problem('validation_failed', { errors: [{ pointer: '/model', detail }] });
