import { isFinished, type JobRecord, keepSubscribed, type Ledger, type Log, names } from '@sluice/shared';
import type { Response } from 'express';
import type { Redis } from 'ioredis';

/** Progress of a job is sent at most this often, in milliseconds. */
const PROGRESS_EVERY_MS = 1_000;
/** An SSE comment is sent this often, so that proxies keep an idle stream open; in milliseconds. */
const COMMENT_EVERY_MS = 15_000;

/** A job with open streams. */
interface Followed {
  followers: Set<Response>;
  timer: NodeJS.Timeout | undefined;
  sentMs: number;
}

interface ChangesOptions {
  /** A dedicated connection, for a subscription. */
  redis: Redis;
  ledger: Ledger;
  /** What clients see of a job. */
  body: (job: JobRecord) => object;
  log: Log;
}

/**
 * Server-Sent Events about jobs. A gateway has one subscription to Redis, and reads a job's record once for all of its
 * followers, so the cost of a stream is its socket.
 */
export class Changes {
  #options: ChangesOptions;
  #followed = new Map<string, Followed>();
  #comments: NodeJS.Timeout;
  #subscription: Promise<unknown> | undefined;

  constructor(options: ChangesOptions) {
    this.#options = options;
    const { redis } = options;
    redis.on('message', (_channel: string, jobId: string) => this.#schedule(jobId));
    // Changes that were published while the connection was away were missed.
    redis.on('ready', () => {
      for (const jobId of this.#followed.keys()) this.#schedule(jobId);
    });
    this.#comments = setInterval(() => this.#sendComments(), COMMENT_EVERY_MS);
  }

  /**
   * Sends a client the events of a job: its present state, then progress, then its end. Resolves when the stream is over.
   * @param response whose head has been sent
   */
  async follow(jobId: string, response: Response): Promise<void> {
    // A client that has already gone emits no further `close` event.
    if (response.closed || response.destroyed) return;
    const followed = this.#followed.get(jobId) ?? { followers: new Set(), timer: undefined, sentMs: 0 };
    this.#followed.set(jobId, followed);
    followed.followers.add(response);
    const { redis, log } = this.#options;
    response.on('error', (err) => log.debug({ err, job_id: jobId }, 'Stream of events failed'));
    const closed = new Promise<void>((resolve) => response.once('close', resolve));
    // Subscribe before reading the record, so that no change in between is missed.
    this.#subscription ??= keepSubscribed(redis, names.changes, log);
    await Promise.race([this.#subscription, closed]);
    await this.#send(jobId, [response]);
    await closed;
    this.#remove(jobId, response);
  }

  /** Ends all streams. */
  close(): void {
    clearInterval(this.#comments);
    for (const { followers, timer } of this.#followed.values()) {
      clearTimeout(timer);
      for (const response of followers) response.end();
      followers.clear();
    }
    this.#options.redis.disconnect();
  }

  #sendComments(): void {
    for (const [jobId, { followers }] of this.#followed) {
      for (const response of followers) {
        // The client has not read anything since the last comment.
        if (response.writableNeedDrain) response.destroy();
        else response.write(':\n\n');
      }
      // In case a change was missed.
      this.#schedule(jobId);
    }
  }

  /** Sends the state of a job to its followers, now or when the next progress is due. */
  #schedule(jobId: string): void {
    const followed = this.#followed.get(jobId);
    if (followed === undefined || followed.timer) return;
    const waitMs = Math.max(0, followed.sentMs + PROGRESS_EVERY_MS - performance.now());
    followed.timer = setTimeout(() => {
      followed.timer = undefined;
      followed.sentMs = performance.now();
      void this.#send(jobId, followed.followers);
    }, waitMs);
  }

  async #send(jobId: string, to: Iterable<Response>): Promise<void> {
    const { ledger, body, log } = this.#options;
    try {
      const job = await ledger.read(jobId);
      const ended = job === undefined || isFinished(job.status);
      const event = job && ended ? job.status : 'progress';
      const text = job ? `event: ${event}\ndata: ${JSON.stringify(body(job))}\n\n` : '';
      for (const response of [...to]) {
        // Another call may have ended this stream in the meantime.
        if (!this.#followed.get(jobId)?.followers.has(response)) continue;
        if (ended) this.#finish(jobId, response, text);
        // Nothing is buffered for a client that does not read.
        else if (!response.writableNeedDrain) response.write(text);
      }
    } catch (err) {
      log.debug({ err, job_id: jobId }, 'Could not send progress');
      // There may be no further change, so try again.
      this.#schedule(jobId);
    }
  }

  /** Sends the last event of a stream and ends it. */
  #finish(jobId: string, response: Response, text = ''): void {
    this.#remove(jobId, response);
    response.end(text);
  }

  #remove(jobId: string, response: Response): void {
    const followed = this.#followed.get(jobId);
    if (!followed?.followers.delete(response) || followed.followers.size > 0) return;
    clearTimeout(followed.timer);
    this.#followed.delete(jobId);
  }
}
