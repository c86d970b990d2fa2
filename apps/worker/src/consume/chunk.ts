import {
  type ChunkJob,
  chunkJobSchema,
  enqueueChunks,
  type Item,
  type ItemResult,
  isFinished,
  type Lane,
  type Ledger,
  type Log,
  type Outcome,
} from '@sluice/shared';
import type { Job, Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Parked } from '../batch/lot.js';
import { QueueReader } from './queueReader.js';

/** Nobody waits for a chunk: a killed worker's is taken again after a few seconds. */
const LOCK_MS = 4_000;
/** Workers may die under the same chunk as often as they like; the poisonous text in it is found by its own runs. */
const MAX_STALLED = 1_000_000;
/** A batch that is canceled is noticed within this time, in milliseconds. */
const WATCH_EVERY_MS = 500;

interface ChunkConsumerOptions {
  redis: Redis;
  queueName: string;
  /** The same queue, to put in the chunks that are marked out when one is stored. */
  queue: Queue<ChunkJob>;
  /** How many chunks this worker holds at once. */
  prefetch: number;
  ledger: Ledger;
  /** How many chunks of one caller may be out. */
  mostOut: () => number;
  countTokens: (text: string) => number;
  park: (lane: Lane, item: Parked) => void;
  log: Log;
}

/** Takes chunks of batches, parks their texts and stores what became of them. */
export class ChunkConsumer {
  #reader: QueueReader;
  #options: ChunkConsumerOptions;
  /** Chunks that are held. */
  #held = 0;

  constructor(options: ChunkConsumerOptions) {
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
   * Takes no more chunks, and finishes those it has.
   * @param force without finishing them
   */
  close(force: boolean): Promise<void> {
    return this.#reader.close(force);
  }

  async #work(job: Job<unknown, void>): Promise<void> {
    this.#held++;
    try {
      await this.#process(job);
    } finally {
      this.#held--;
      this.#reader.wake();
    }
  }

  async #process(job: Job<unknown, void>): Promise<void> {
    const { ledger, queue, mostOut } = this.#options;
    const parsed = chunkJobSchema.safeParse(job.data);
    if (!parsed.success) throw new Error(`Not a chunk: ${parsed.error.issues[0]?.message}`);
    const { jobId, chunk } = parsed.data;
    const [record, items] = await Promise.all([ledger.read(jobId), ledger.texts(jobId, chunk)]);
    if (record === undefined || items === undefined || isFinished(record.status)) return;
    const results = await this.#run(jobId, chunk, items);
    // Ended meanwhile: its record says all there is to say.
    if (results === undefined) return;
    await enqueueChunks(queue, await ledger.store(record, chunk, results, mostOut()));
  }

  /** Results of a chunk's texts, in order; undefined when its batch has ended. */
  async #run(jobId: string, chunk: number, items: readonly Item[]): Promise<ItemResult[] | undefined> {
    const { ledger, park, countTokens, log } = this.#options;
    let ended = false;
    const watch = setInterval(() => {
      ledger.isLive(jobId).then(
        (live) => {
          ended = !live;
        },
        (err: unknown) => log.debug({ err, jobId }, 'A batch could not be read'),
      );
    }, WATCH_EVERY_MS);
    try {
      const outcomes = await Promise.all(
        items.map(
          ({ text }, i) =>
            new Promise<Outcome | { kind: 'expired' }>((settle) =>
              park('bulk', {
                id: `${jobId}/${chunk}/${i}`,
                text,
                topK: 1,
                tokens: countTokens(text),
                expired: () => ended,
                settle,
              }),
            ),
        ),
      );
      const results = outcomes.map(resultOf);
      return results.every((result) => result !== undefined) ? results : undefined;
    } finally {
      clearInterval(watch);
    }
  }
}

function resultOf(outcome: Outcome | { kind: 'expired' }): ItemResult | undefined {
  switch (outcome.kind) {
    case 'answer':
      return { labels: outcome.labels, ...(outcome.truncated ? { truncated: true } : {}) };
    case 'timed_out':
      return { error: 'analysis_timed_out' };
    case 'failed':
      return { error: 'analysis_failed' };
    case 'expired':
      return undefined;
  }
}
