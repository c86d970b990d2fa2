import { setTimeout as delay } from 'node:timers/promises';
import { type Log, names, type Outcome, REPLY_FIELD, repliesSchema, whenReady } from '@sluice/shared';
import type { Redis } from 'ioredis';

const STREAM_TTL_SECONDS = 60;
const REFRESH_EVERY_MS = 10_000;
/** Well below the socket timeout of the role `blocking`, which finds a dead connection by its silence. */
const BLOCK_MS = 1_000;
const READ_AT_ONCE = 500;
const RETRY_AFTER_MS = 50;

/**
 * Replies to this start of this gateway, from a stream of its own.
 *
 * *opening*: (re)connecting, or seeing to it that the stream exists; leaves to *listening*.
 * *listening*: in `XREAD BLOCK` from the last id seen; leaves to *opening* when the connection breaks or falls
 * silent. Nothing is lost meanwhile: the stream keeps what came, and reading goes on from the last id.
 * *closed*: for good.
 */
export class Inbox {
  #mode: 'opening' | 'listening' | 'closed' = 'opening';
  #redis: Redis;
  #stream: string;
  #log: Log;
  #lastId = '0-0';
  #waiting = new Map<string, (outcome: Outcome) => void>();
  #onListening = new Set<() => void>();
  #closing = new AbortController();
  #loop: Promise<void>;
  #refreshedMs = 0;

  /**
   * @param redis a connection of its own, role `blocking`
   * @param gatewayId new at each start
   */
  constructor(redis: Redis, gatewayId: string, log: Log) {
    this.#redis = redis;
    this.#stream = names.replies(gatewayId);
    this.#log = log;
    redis.on('close', () => this.#leaveListening());
    this.#loop = this.#run();
  }

  /** Hands the outcome with this id to a function, until it is forgotten. */
  expect(id: string, onOutcome: (outcome: Outcome) => void): void {
    this.#waiting.set(id, onOutcome);
  }

  forget(id: string): void {
    this.#waiting.delete(id);
  }

  /** Whether replies arrive, or begin to within the time given, in milliseconds. */
  async listening(withinMs: number): Promise<boolean> {
    if (this.#mode === 'listening') return true;
    return new Promise((resolve) => {
      const settle = (listening: boolean) => {
        clearTimeout(timer);
        this.#onListening.delete(heard);
        resolve(listening);
      };
      const heard = () => settle(true);
      const timer = setTimeout(() => settle(false), withinMs);
      this.#onListening.add(heard);
    });
  }

  /** Ends the reading; the stream goes by its time to live. */
  async close(): Promise<void> {
    if (this.#mode === 'closed') return;
    this.#mode = 'closed';
    this.#closing.abort(new Error('The inbox is closed'));
    this.#redis.disconnect();
    await this.#loop;
  }

  #leaveListening(): void {
    if (this.#mode === 'listening') this.#mode = 'opening';
  }

  async #run(): Promise<void> {
    while (!this.#closing.signal.aborted) {
      try {
        await whenReady(this.#redis, this.#closing.signal);
        await this.#refresh();
        this.#mode = 'listening';
        for (const heard of this.#onListening) heard();
        while (this.#mode === 'listening') await this.#read();
      } catch (err) {
        if (this.#closing.signal.aborted) return;
        this.#leaveListening();
        this.#log.debug({ err }, 'The inbox opens again');
        await delay(RETRY_AFTER_MS);
      }
    }
  }

  /** Renews the stream's time to live; makes it again, and reads it from its beginning, when it is gone. */
  async #refresh(): Promise<void> {
    if ((await this.#redis.expire(this.#stream, STREAM_TTL_SECONDS)) === 0) {
      this.#lastId = '0-0';
      await this.#redis
        .multi()
        .xadd(this.#stream, '*', 'opened', '1')
        .expire(this.#stream, STREAM_TTL_SECONDS)
        .exec();
    }
    this.#refreshedMs = performance.now();
  }

  async #read(): Promise<void> {
    if (performance.now() - this.#refreshedMs > REFRESH_EVERY_MS) await this.#refresh();
    const streams = await this.#redis.xread(
      'COUNT',
      READ_AT_ONCE,
      'BLOCK',
      BLOCK_MS,
      'STREAMS',
      this.#stream,
      this.#lastId,
    );
    for (const [id, fields] of streams?.[0]?.[1] ?? []) {
      this.#lastId = id;
      if (fields[0] === REPLY_FIELD) this.#deliver(fields[1]);
    }
  }

  #deliver(json: string | undefined): void {
    try {
      const { replies } = repliesSchema.parse(JSON.parse(json ?? ''));
      // Nobody waits for a second reply to the same text, or after the deadline.
      for (const { id, outcome } of replies) this.#waiting.get(id)?.(outcome);
    } catch (err) {
      this.#log.warn({ err }, 'A reply that is none was dropped');
    }
  }
}
