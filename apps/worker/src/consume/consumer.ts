import {
  type Job as JobPayload,
  jobSchema,
  type Lane,
  type Log,
  type Outcome,
  type RedisClock,
} from '@sluice/shared';
import { type Job, UnrecoverableError, type Worker } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Parked } from '../batch/lot.js';
import { startQueueWorker } from './queueWorker.js';

/** So a killed worker's jobs are taken by another in time for their deadline; a second run is harmless. */
const LOCK_MS = 1_500;
/** Workers may die under the same job; its deadline ends it, not their number. */
const MAX_STALLED = 10;

interface ConsumerOptions {
  redis: Redis;
  queueName: string;
  /** How many jobs this worker holds at once. */
  prefetch: number;
  clock: RedisClock;
  estimateTokens: (text: string) => number;
  park: (lane: Lane, item: Parked) => void;
  reply: (gatewayId: string, id: string, outcome: Outcome) => Promise<void>;
  log: Log;
}

/** Takes jobs from a model's queue, parks their texts and replies with what became of them. */
export class Consumer {
  #worker: Worker<unknown, void>;
  #options: ConsumerOptions;

  constructor(options: ConsumerOptions) {
    this.#options = options;
    this.#worker = startQueueWorker({ ...options, lockMs: LOCK_MS, maxStalled: MAX_STALLED }, (job) =>
      this.#process(job),
    );
  }

  /**
   * Takes no more jobs, and finishes those it has.
   * @param force without finishing them
   */
  close(force: boolean): Promise<void> {
    return this.#worker.close(force);
  }

  async #process(job: Job<unknown, void>): Promise<void> {
    const parsed = jobSchema.safeParse(job.data);
    // Whoever put it there will not do better on another try.
    if (!parsed.success) throw new UnrecoverableError(`Not a job: ${parsed.error.issues[0]?.message}`);
    const { gatewayId, id } = parsed.data;
    const outcome = await this.#park(parsed.data);
    if (outcome.kind !== 'expired') await this.#options.reply(gatewayId, id, outcome);
  }

  #park({ id, text, topK, deadlineMs }: JobPayload): Promise<Outcome | { kind: 'expired' }> {
    const { clock, park, estimateTokens } = this.#options;
    const expired = () => (clock.now() ?? Number.NEGATIVE_INFINITY) > deadlineMs;
    return new Promise((settle) => {
      if (expired()) settle({ kind: 'expired' });
      else park('interactive', { id, text, topK, tokens: estimateTokens(text), expired, settle });
    });
  }
}
