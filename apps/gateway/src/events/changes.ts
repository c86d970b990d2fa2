import { isFinished, type Ledger, type Log, names } from '@sluice/shared';
import type { Response } from 'express';
import type { Redis } from 'ioredis';
import { jobBody } from '../routes/jobBody.js';

/** Progress is told at most so often, in milliseconds. */
const EVERY_MS = 1_000;
/** A comment keeps a quiet stream open. */
const COMMENT_EVERY_MS = 15_000;

/** A batch that someone follows. */
interface Followed {
  followers: Set<Response>;
  timer: NodeJS.Timeout | undefined;
  toldMs: number;
}

/**
 * Server-Sent Events about batches. One subscription to Redis a gateway, and one look at a batch's record for all who
 * follow it: what a stream costs is its socket.
 */
export class Changes {
  #redis: Redis;
  #ledger: Ledger;
  #log: Log;
  #followed = new Map<string, Followed>();
  #comments: NodeJS.Timeout;
  #subscription: Promise<unknown> | undefined;

  /** @param redis a connection of its own, for a subscription */
  constructor(redis: Redis, ledger: Ledger, log: Log) {
    this.#redis = redis;
    this.#ledger = ledger;
    this.#log = log;
    redis.on('message', (_channel: string, jobId: string) => this.#changed(jobId));
    // What was published while the connection was away nobody heard.
    redis.on('ready', () => {
      for (const jobId of this.#followed.keys()) this.#changed(jobId);
    });
    this.#comments = setInterval(() => {
      for (const [jobId, { followers }] of this.#followed) {
        for (const response of followers) {
          // Has taken nothing since the comment before, or since longer: it does not read.
          if (response.writableNeedDrain) response.destroy();
          else response.write(':\n\n');
        }
        // Should a change have gone unheard, it is not for ever.
        this.#changed(jobId);
      }
      // A subscription is silent by nature; whether its connection is dead must be asked.
      if (this.#subscription) this.#redis.ping().catch(() => this.#redis.disconnect(true));
    }, COMMENT_EVERY_MS);
  }

  /**
   * Tells a client of a batch: its present state first, then progress, then its end. Resolves when the stream is over.
   * @param response whose head is sent
   */
  async follow(jobId: string, response: Response): Promise<void> {
    // A client that has hung up meanwhile closes no more.
    if (response.closed || response.destroyed) return;
    const followed = this.#followed.get(jobId) ?? { followers: new Set(), timer: undefined, toldMs: 0 };
    this.#followed.set(jobId, followed);
    followed.followers.add(response);
    response.on('error', (err) => this.#log.debug({ err, job_id: jobId }, 'A stream of events broke'));
    const over = new Promise<void>((resolve) => response.once('close', resolve));
    // First the subscription, then the look: what changes in between is heard.
    this.#subscription ??= this.#redis.subscribe(names.changes);
    try {
      await this.#subscription;
      await this.#tell(jobId, [response]);
    } catch (err) {
      this.#subscription = undefined;
      this.#log.debug({ err }, 'Changes of batches are not heard');
      this.#finish(jobId, response);
    }
    await over;
    this.#leave(jobId, response);
  }

  /** Ends all streams. */
  close(): void {
    clearInterval(this.#comments);
    for (const { followers, timer } of this.#followed.values()) {
      clearTimeout(timer);
      for (const response of followers) response.end();
      followers.clear();
    }
    this.#redis.disconnect();
  }

  #changed(jobId: string): void {
    const followed = this.#followed.get(jobId);
    if (followed === undefined || followed.timer) return;
    const waitMs = Math.max(0, followed.toldMs + EVERY_MS - performance.now());
    followed.timer = setTimeout(() => {
      followed.timer = undefined;
      followed.toldMs = performance.now();
      void this.#tell(jobId, followed.followers);
    }, waitMs);
  }

  async #tell(jobId: string, to: Iterable<Response>): Promise<void> {
    try {
      const record = await this.#ledger.read(jobId);
      const ended = record === undefined || isFinished(record.status);
      const event = record && ended ? record.status : 'progress';
      const text = record ? `event: ${event}\ndata: ${JSON.stringify(jobBody(record))}\n\n` : '';
      for (const response of [...to]) {
        // Told by another look already.
        if (!this.#followed.get(jobId)?.followers.has(response)) continue;
        if (ended) this.#finish(jobId, response, text);
        // A client that does not read has nothing heaped up for it.
        else if (!response.writableNeedDrain) response.write(text);
      }
    } catch (err) {
      this.#log.debug({ err, job_id: jobId }, 'Progress could not be told');
      // Nothing may change any more: look again.
      this.#changed(jobId);
    }
  }

  /** The last word to a client: nothing is written after it. */
  #finish(jobId: string, response: Response, text = ''): void {
    this.#leave(jobId, response);
    response.end(text);
  }

  #leave(jobId: string, response: Response): void {
    const followed = this.#followed.get(jobId);
    if (!followed?.followers.delete(response) || followed.followers.size > 0) return;
    clearTimeout(followed.timer);
    this.#followed.delete(jobId);
  }
}
