import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import {
  CHUNK_ITEMS,
  CHUNK_ROWS,
  COMMAND_TIMEOUT_MS,
  failSpan,
  type InteractiveMessage,
  type Item,
  itemIdOf,
  type Lane,
  type Log,
  MESSAGE_VERSION,
  names,
  type Outcome,
  presentSpan,
  type RedisClock,
  SpanKind,
  startSpan,
  traceContextOf,
} from '@sluice/shared';
import type { Job, Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { ClientClosedRequest, fromRedis, Problem } from '../http/problem.js';
import type { ReplyReader } from './replyReader.js';

/** Maximum number of items per message. */
const ITEMS_PER_MESSAGE: Readonly<Record<Lane, number>> = { interactive: 16, bulk: CHUNK_ITEMS };
/**
 * Workers are busy if they have this many rows for each model process, about a micro-batch. Then an interactive message waits
 * for more items, because each message costs Redis many commands: for this share of the time that these rows take, and at
 * most this long, in milliseconds.
 */
const BUSY_ROWS_PER_PROCESS = 8;
const PAUSE_SHARE = 0.1;
const MAX_PAUSE_MS = 5;
/** Maximum number of rows per message; a single item may have more. */
const ROWS_PER_MESSAGE = CHUNK_ROWS;

/** What the live workers of a model can do, all together. */
export interface Capacity {
  processes: number;
  /** 0 without a worker. */
  rowsPerSecond: number;
  /**
   * Whether rows may run together. If not, each message carries one item, because its rows may take long and another worker
   * may be free.
   */
  batching: boolean;
}

interface DispatcherOptions {
  redis: Redis;
  modelId: string;
  lane: Lane;
  /** The queue of that lane. */
  queue: Queue<InteractiveMessage>;
  replies: ReplyReader;
  clock: RedisClock;
  /** Names the stream that replies are sent to. */
  gatewayId: string;
  capacity: () => Capacity;
  /** Unanswered rows of all gateways in this lane. */
  unansweredRows: () => number;
  log: Log;
}

/** An input that a caller submits. */
export interface Submission {
  /** Of the request, for the log. */
  requestId: string;
  input: unknown;
  parameters: unknown;
  /** Rows that it makes the model run. */
  rows: number;
  /** From now to the deadline, in milliseconds. */
  timeoutMs: number;
  /** Aborts when the client closes the connection. */
  signal: AbortSignal;
}

/** An item without an outcome. */
interface Unanswered {
  item: Item;
  rows: number;
  /** Ends the wait without an outcome. */
  fail: (reason: Error) => void;
  /** Whether it has ended without an outcome; its message may still carry it. */
  failed: boolean;
  /** The message that carries the item, once it is in the queue. */
  message?: SentMessage;
}

/** A message in the queue, with those of its items that a caller still waits for. */
interface SentMessage {
  /** BullMQ's handle of the message. */
  queued: Job<InteractiveMessage>;
  items: Map<string, Item>;
  /** Ids of items that nobody waits for any more, until the workers are told. */
  withdrawn: string[];
  /** Whether an update of the message is scheduled. */
  updating: boolean;
}

/**
 * Puts items into a queue of a model and waits for their replies.
 *
 * Items that are submitted in the same turn of the event loop, or while a message is being added, share a message. While the
 * workers are busy, a message also waits a few milliseconds for more items; while they are not, the items are divided over all
 * model processes. Each item keeps its own deadline, reply and abort.
 */
export class Dispatcher {
  #options: DispatcherOptions;
  #unanswered = new Set<Unanswered>();
  #unansweredRows = 0;
  /** Items that are not in a message yet. */
  #pending: Unanswered[] = [];
  #adding = false;
  /** Items submitted so far. */
  #submitted = 0;

  constructor(options: DispatcherOptions) {
    this.#options = options;
    options.clock.on('away', () => {
      for (const { fail } of this.#unanswered) fail(new Problem('unavailable'));
    });
  }

  /** Rows of all items without an outcome. */
  get unansweredRows(): number {
    return this.#unansweredRows;
  }

  /**
   * Resolves to the outcome of an input.
   * @throws Problem `analysis_timed_out` at the deadline, `unavailable` when Redis goes away; ClientClosedRequest
   */
  async submit({ requestId, input, parameters, rows, timeoutMs, signal }: Submission): Promise<Outcome> {
    const { clock, replies, modelId, queue } = this.#options;
    const nowMs = clock.now();
    if (clock.away || nowMs === undefined) throw new Problem('unavailable');
    const id = itemIdOf(requestId, ++this.#submitted);
    const parent = presentSpan();
    const span =
      parent &&
      startSpan(`send ${modelId}`, {
        kind: SpanKind.PRODUCER,
        attributes: {
          'messaging.system': 'bullmq',
          'messaging.destination.name': queue.name,
          'sluice.rows': rows,
        },
        parent,
      });
    const traceContext = span && traceContextOf(span);
    return new Promise((resolve, reject) => {
      const settle = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
        replies.ignore(id);
        if (this.#unanswered.delete(unanswered)) this.#unansweredRows -= rows;
        unanswered.message?.items.delete(id);
        span?.end();
      };
      const unanswered: Unanswered = {
        item: {
          id,
          input,
          parameters,
          submittedAtMs: nowMs,
          deadlineMs: nowMs + timeoutMs,
          ...(traceContext ? { trace: traceContext } : {}),
        },
        rows,
        fail: (reason) => {
          if (span) failSpan(span, reason instanceof Problem ? reason.code : reason.name);
          settle();
          unanswered.failed = true;
          if (unanswered.message) {
            unanswered.message.withdrawn.push(id);
            this.#update(unanswered.message);
          }
          reject(reason);
        },
        failed: false,
      };
      const onAbort = () => unanswered.fail(new ClientClosedRequest());
      const timer = setTimeout(() => unanswered.fail(new Problem('analysis_timed_out')), timeoutMs);
      replies.expect(id, (outcome) => {
        if (span && outcome.kind !== 'answer') failSpan(span, outcome.kind);
        settle();
        resolve(outcome);
      });
      this.#unanswered.add(unanswered);
      this.#unansweredRows += rows;
      if (signal.aborted) {
        onAbort();
        return;
      }
      signal.addEventListener('abort', onAbort, { once: true });
      this.#pending.push(unanswered);
      // The other inputs of the request share its message.
      queueMicrotask(() => void this.#addPending());
    });
  }

  /** Puts the pending items into messages, with one call to Redis at a time. */
  async #addPending(): Promise<void> {
    if (this.#adding) return;
    this.#adding = true;
    while (this.#pending.length > 0) {
      const pauseMs = this.#pauseMs();
      if (pauseMs >= 1) await delay(pauseMs);
      const pending = this.#pending;
      this.#pending = [];
      try {
        if (!(await this.#options.replies.listening(COMMAND_TIMEOUT_MS))) throw new Problem('unavailable');
        await this.#add(pending.filter((unanswered) => this.#unanswered.has(unanswered)));
      } catch (error) {
        for (const { fail } of pending) fail(error instanceof Error ? error : new Error(String(error)));
      }
    }
    this.#adding = false;
  }

  /** Rows that the workers have, of all gateways, without those that are not in a message yet. */
  #rowsAhead(pending: readonly Unanswered[]): number {
    return this.#options.unansweredRows() - pending.reduce((sum, { rows }) => sum + rows, 0);
  }

  #areWorkersBusy(pending: readonly Unanswered[]): boolean {
    return this.#rowsAhead(pending) >= BUSY_ROWS_PER_PROCESS * this.#options.capacity().processes;
  }

  /** How long a message should wait for more items. */
  #pauseMs(): number {
    const { lane, capacity } = this.#options;
    const { rowsPerSecond, batching } = capacity();
    if (lane === 'bulk' || !batching || rowsPerSecond === 0 || !this.#areWorkersBusy(this.#pending)) return 0;
    const workMs = (1000 * this.#rowsAhead(this.#pending)) / rowsPerSecond;
    return Math.min(MAX_PAUSE_MS, PAUSE_SHARE * workMs);
  }

  async #add(pending: readonly Unanswered[]): Promise<void> {
    const { queue } = this.#options;
    const messages = this.#divide(pending).map((members) => ({ id: randomUUID(), members }));
    if (messages.length === 0) return;
    const added = messages.map(({ id, members }) =>
      queue.add('items', this.#messageWith(members.map(({ item }) => item)), {
        jobId: id,
        removeOnComplete: true,
        removeOnFail: true,
      }),
    );
    let queued: Job<InteractiveMessage>[];
    try {
      queued = await fromRedis(Promise.all(added));
    } catch (error) {
      // A command that timed out here may still have run.
      for (const { id } of messages) this.#withdraw(id, () => queue.remove(id));
      throw error;
    }
    for (const [i, { members }] of messages.entries()) {
      const handle = queued[i];
      if (handle === undefined) continue;
      const waiting = members.filter((member) => this.#unanswered.has(member));
      const message: SentMessage = {
        queued: handle,
        items: new Map(waiting.map(({ item }) => [item.id, item])),
        withdrawn: members.filter(({ failed }) => failed).map(({ item }) => item.id),
        updating: false,
      };
      for (const member of waiting) member.message = message;
      if (members.some(({ failed }) => failed)) this.#update(message);
    }
  }

  /** Divides items into messages: as few as possible while the workers are busy, else two for each model process. */
  #divide(pending: readonly Unanswered[]): Unanswered[][] {
    const { lane, capacity } = this.#options;
    const { processes, batching } = capacity();
    const most = batching ? ITEMS_PER_MESSAGE[lane] : 1;
    const isEven = lane === 'interactive' && !this.#areWorkersBusy(pending);
    const size = isEven ? Math.min(most, Math.ceil(pending.length / (2 * Math.max(1, processes)))) : most;
    const messages: Unanswered[][] = [];
    let rows = 0;
    for (const unanswered of pending) {
      const last = messages.at(-1);
      rows += unanswered.rows;
      if (last && last.length < size && rows <= ROWS_PER_MESSAGE) {
        last.push(unanswered);
      } else {
        messages.push([unanswered]);
        rows = unanswered.rows;
      }
    }
    return messages;
  }

  #messageWith(items: Item[]): InteractiveMessage {
    const { gatewayId, unansweredRows } = this.#options;
    return { v: MESSAGE_VERSION, gatewayId, unansweredRows: unansweredRows(), items };
  }

  /**
   * Removes the items that nobody waits for from a message in the queue. A worker that has taken the message already is
   * told their ids.
   */
  #update(message: SentMessage): void {
    if (message.updating) return;
    message.updating = true;
    // Items that end in the same tick are removed together.
    setImmediate(() => {
      message.updating = false;
      const { queued, withdrawn } = message;
      message.withdrawn = [];
      const items = [...message.items.values()];
      this.#withdraw(queued.id, () =>
        items.length === 0 ? queued.remove() : queued.updateData(this.#messageWith(items)),
      );
      const { redis, modelId, gatewayId } = this.#options;
      this.#withdraw(queued.id, () =>
        redis.publish(names.withdrawn(modelId), JSON.stringify({ gatewayId, ids: withdrawn })),
      );
    });
  }

  #withdraw(id: string | undefined, call: () => Promise<unknown>): void {
    call().catch((err: unknown) => this.#options.log.debug({ err, id }, 'Could not withdraw a message'));
  }
}
