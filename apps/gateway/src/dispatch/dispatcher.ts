import { randomUUID } from 'node:crypto';
import {
  COMMAND_TIMEOUT_MS,
  type Job,
  type Log,
  type Outcome,
  PAYLOAD_VERSION,
  type RedisClock,
} from '@sluice/shared';
import type { Queue } from 'bullmq';
import { CallerGone, fromRedis, Problem } from '../errors/problem.js';
import type { Inbox } from './inbox.js';

interface Request {
  text: string;
  /** How many labels to return. */
  topK: number;
  /** From now to the deadline. */
  timeoutMs: number;
  /** Aborts when the caller hangs up. */
  signal: AbortSignal;
}

/** Puts texts into the queue and waits for their replies. */
export class Dispatcher {
  #queue: Queue<Job>;
  #inbox: Inbox;
  #clock: RedisClock;
  #gatewayId: string;
  #log: Log;
  /** Ends the wait of each text under way. */
  #waits = new Set<(reason: Error) => void>();

  /** @param gatewayId names the stream that replies go to */
  constructor(queue: Queue<Job>, inbox: Inbox, clock: RedisClock, gatewayId: string, log: Log) {
    this.#queue = queue;
    this.#inbox = inbox;
    this.#clock = clock;
    this.#gatewayId = gatewayId;
    this.#log = log;
    clock.on('away', () => {
      for (const end of this.#waits) end(new Problem('unavailable'));
    });
  }

  /**
   * Has a text analysed.
   * @throws Problem `analysis_timed_out` at the deadline, `unavailable` when Redis goes away; CallerGone
   */
  async submit({ text, topK, timeoutMs, signal }: Request): Promise<Outcome> {
    const nowMs = this.#clock.now();
    if (this.#clock.away || nowMs === undefined) throw new Problem('unavailable');
    const id = randomUUID();
    const job: Job = {
      v: PAYLOAD_VERSION,
      id,
      text,
      topK,
      deadlineMs: nowMs + timeoutMs,
      gatewayId: this.#gatewayId,
    };
    const ended = new AbortController();
    const end = (reason: Error) => ended.abort(reason);
    const hangUp = () => end(new CallerGone());
    const timer = setTimeout(() => end(new Problem('analysis_timed_out')), timeoutMs);
    const outcome = new Promise<Outcome>((resolve, reject) => {
      ended.signal.addEventListener('abort', () => reject(ended.signal.reason), { once: true });
      this.#inbox.expect(id, resolve);
    });
    this.#waits.add(end);
    if (signal.aborted) hangUp();
    else signal.addEventListener('abort', hangUp, { once: true });
    const enqueued = this.#enqueue(job, timeoutMs, ended.signal);
    try {
      await Promise.race([enqueued, outcome]);
      return await outcome;
    } catch (error) {
      // A job that waits still is of no use to anybody; one that a worker has taken is left to it.
      void enqueued.catch(() => {}).then(() => this.#remove(id));
      throw error;
    } finally {
      clearTimeout(timer);
      this.#waits.delete(end);
      this.#inbox.forget(id);
      signal.removeEventListener('abort', hangUp);
    }
  }

  async #remove(id: string): Promise<void> {
    try {
      await this.#queue.remove(id);
    } catch (err) {
      this.#log.debug({ err, id }, 'A job was not removed');
    }
  }

  /** Adds a job once its reply could be heard. */
  async #enqueue(job: Job, timeoutMs: number, ended: AbortSignal): Promise<void> {
    if (!(await this.#inbox.listening(Math.min(timeoutMs, COMMAND_TIMEOUT_MS)))) {
      throw new Problem('unavailable');
    }
    if (ended.aborted) return;
    await fromRedis(
      this.#queue.add('text', job, { jobId: job.id, removeOnComplete: true, removeOnFail: true }),
    );
  }
}
