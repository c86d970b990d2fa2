import { randomUUID } from 'node:crypto';
import {
  COMMAND_TIMEOUT_MS,
  JOB_VERSION,
  type Job,
  type JobText,
  type Log,
  type Outcome,
  type RedisClock,
} from '@sluice/shared';
import type { Queue, Job as QueuedJob } from 'bullmq';
import { CallerGone, fromRedis, Problem } from '../errors/problem.js';
import type { Inbox } from './inbox.js';

/** Most texts of a job: few, so that workers share a burst of them evenly; under load there are about three anyway. */
const TEXTS_PER_JOB = 4;

interface DispatcherOptions {
  queue: Queue<Job>;
  inbox: Inbox;
  clock: RedisClock;
  /** Names the stream that replies go to. */
  gatewayId: string;
  /** Whether a job may carry several texts. */
  mayShare: () => boolean;
  log: Log;
}

interface Work {
  text: string;
  /** How many labels to return. */
  topK: number;
  /** From now to the deadline. */
  timeoutMs: number;
  /** Aborts when the caller hangs up. */
  signal: AbortSignal;
}

/** A text under way. */
interface Wait {
  text: JobText;
  /** Ends the wait without an outcome. */
  end: (reason: Error) => void;
  /** Whether it has ended without an outcome. */
  ended: boolean;
  /** The job that carries the text, once it is in the queue. */
  shared?: SharedJob;
}

/** A job in the queue, and the texts in it that somebody still waits for. */
interface SharedJob {
  job: QueuedJob<Job>;
  texts: Map<string, JobText>;
  /** Whether it is going to be told which these are. */
  changing: boolean;
}

/**
 * Puts texts into the queue and waits for their replies.
 *
 * Texts that come while a job is on its way to Redis go together in the next one: a lone text goes at once, and under
 * load a BullMQ job, which costs Redis 40 commands, carries several. Each keeps its own deadline, reply and hanging-up.
 */
export class Dispatcher {
  #options: DispatcherOptions;
  /** Each text under way. */
  #waits = new Set<Wait>();
  /** Those that are in no job yet. */
  #open: Wait[] = [];
  #adding = false;

  constructor(options: DispatcherOptions) {
    this.#options = options;
    const { clock } = options;
    clock.on('away', () => {
      for (const { end } of this.#waits) end(new Problem('unavailable'));
    });
  }

  /** How many texts are under way. */
  get waiting(): number {
    return this.#waits.size;
  }

  /**
   * Has a text analysed.
   * @throws Problem `analysis_timed_out` at the deadline, `unavailable` when Redis goes away; CallerGone
   */
  async submit({ text, topK, timeoutMs, signal }: Work): Promise<Outcome> {
    const nowMs = this.#options.clock.now();
    if (this.#options.clock.away || nowMs === undefined) throw new Problem('unavailable');
    const id = randomUUID();
    return new Promise((resolve, reject) => {
      const settle = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', hangUp);
        this.#options.inbox.forget(id);
        this.#waits.delete(wait);
        wait.shared?.texts.delete(id);
      };
      const wait: Wait = {
        text: { id, text, topK, deadlineMs: nowMs + timeoutMs },
        end: (reason) => {
          settle();
          wait.ended = true;
          if (wait.shared) this.#withdraw(wait.shared);
          reject(reason);
        },
        ended: false,
      };
      const hangUp = () => wait.end(new CallerGone());
      const timer = setTimeout(() => wait.end(new Problem('analysis_timed_out')), timeoutMs);
      this.#options.inbox.expect(id, (outcome) => {
        settle();
        resolve(outcome);
      });
      this.#waits.add(wait);
      if (signal.aborted) {
        hangUp();
        return;
      }
      signal.addEventListener('abort', hangUp, { once: true });
      this.#open.push(wait);
      void this.#add();
    });
  }

  /** Puts what is open into jobs, one call to Redis after the other. */
  async #add(): Promise<void> {
    if (this.#adding) return;
    this.#adding = true;
    while (this.#open.length > 0) {
      const waits = this.#open;
      this.#open = [];
      try {
        if (!(await this.#options.inbox.listening(COMMAND_TIMEOUT_MS))) throw new Problem('unavailable');
        await this.#enqueue(waits.filter((wait) => this.#waits.has(wait)));
      } catch (error) {
        for (const { end } of waits) end(error instanceof Error ? error : new Error(String(error)));
      }
    }
    this.#adding = false;
  }

  async #enqueue(waits: readonly Wait[]): Promise<void> {
    const groups: { jobId: string; waits: Wait[] }[] = [];
    const most = this.#options.mayShare() ? TEXTS_PER_JOB : 1;
    for (let i = 0; i < waits.length; i += most) {
      groups.push({ jobId: randomUUID(), waits: waits.slice(i, i + most) });
    }
    if (groups.length === 0) return;
    const added = groups.map((group) =>
      this.#options.queue.add('texts', this.#jobOf(group.waits.map(({ text }) => text)), {
        jobId: group.jobId,
        removeOnComplete: true,
        removeOnFail: true,
      }),
    );
    let jobs: QueuedJob<Job>[];
    try {
      jobs = await fromRedis(Promise.all(added));
    } catch (error) {
      // A command that was given up may have run all the same.
      for (const { jobId } of groups) this.#takeBack(jobId, () => this.#options.queue.remove(jobId));
      throw error;
    }
    for (const [i, group] of groups.entries()) {
      const job = jobs[i];
      if (job === undefined) continue;
      const waiting = group.waits.filter((wait) => this.#waits.has(wait));
      const texts = new Map(waiting.map(({ text }) => [text.id, text]));
      const shared: SharedJob = { job, texts, changing: false };
      for (const wait of waiting) wait.shared = shared;
      if (group.waits.some(({ ended }) => ended)) this.#withdraw(shared);
    }
  }

  #jobOf(texts: JobText[]): Job {
    return { v: JOB_VERSION, gatewayId: this.#options.gatewayId, texts };
  }

  /**
   * Takes out of a job what nobody waits for any more. A text that waits still is of no use then; one that a worker
   * has taken is left to it.
   */
  #withdraw(shared: SharedJob): void {
    if (shared.changing) return;
    shared.changing = true;
    // Those that end together are taken out together.
    setImmediate(() => {
      shared.changing = false;
      const { job } = shared;
      const texts = [...shared.texts.values()];
      this.#takeBack(job.id, () => (texts.length === 0 ? job.remove() : job.updateData(this.#jobOf(texts))));
    });
  }

  #takeBack(id: string | undefined, call: () => Promise<unknown>): void {
    call().catch((err: unknown) => this.#options.log.debug({ err, id }, 'A job was not taken back'));
  }
}
