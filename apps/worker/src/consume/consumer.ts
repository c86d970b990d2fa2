import { type JobText, jobSchema, type Lane, type Log, type Outcome, type RedisClock } from '@sluice/shared';
import type { Job } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Parked } from '../batch/lot.js';
import type { Replies } from '../reply/reply.js';
import { QueueReader } from './queueReader.js';

/** So a killed worker's jobs are taken by another in time for their deadline; a second run is harmless. */
const LOCK_MS = 1_500;
/** Workers may die under the same job; its deadline ends it, not their number. */
const MAX_STALLED = 10;

interface ConsumerOptions {
  redis: Redis;
  queueName: string;
  /** How many texts this worker holds at once; the job that reaches it may go over. */
  prefetch: number;
  clock: RedisClock;
  countTokens: (text: string) => number;
  park: (lane: Lane, item: Parked) => void;
  replies: Replies;
  log: Log;
}

/** Takes jobs from a model's queue, parks their texts and replies with what became of them. */
export class Consumer {
  #reader: QueueReader;
  #options: ConsumerOptions;
  /** Texts that are held. */
  #held = 0;

  constructor(options: ConsumerOptions) {
    this.#options = options;
    this.#reader = new QueueReader({
      ...options,
      lockMs: LOCK_MS,
      maxStalled: MAX_STALLED,
      hasRoom: () => this.#held < options.prefetch,
      work: (job) => this.#work(job),
    });
  }

  /**
   * Takes no more jobs, and finishes those it has.
   * @param force without finishing them
   */
  close(force: boolean): Promise<void> {
    return this.#reader.close(force);
  }

  async #work(job: Job<unknown, void>): Promise<void> {
    const parsed = jobSchema.safeParse(job.data);
    if (!parsed.success) throw new Error(`Not a job: ${parsed.error.issues[0]?.message}`);
    const { v, gatewayId, texts } = parsed.data;
    this.#held += texts.length;
    await Promise.all(
      texts.map(async (text) => {
        const outcome = await this.#park(text).finally(() => {
          this.#held--;
          this.#reader.wake();
        });
        if (outcome.kind !== 'expired')
          await this.#options.replies.send(gatewayId, v, { id: text.id, outcome });
      }),
    );
  }

  #park({ id, text, topK, deadlineMs }: JobText): Promise<Outcome | { kind: 'expired' }> {
    const { clock, park, countTokens } = this.#options;
    const expired = () => (clock.now() ?? Number.NEGATIVE_INFINITY) > deadlineMs;
    return new Promise((settle) => {
      if (expired()) settle({ kind: 'expired' });
      else park('interactive', { id, text, topK, tokens: countTokens(text), expired, settle });
    });
  }
}
