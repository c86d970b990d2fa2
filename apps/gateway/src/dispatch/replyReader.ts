import { setTimeout as delay } from 'node:timers/promises';
import { type Log, names, type Outcome, REPLY_FIELD, repliesSchema, whenReady } from '@sluice/shared';
import type { Redis } from 'ioredis';

const STREAM_TTL_SECONDS = 60;
const REFRESH_EVERY_MS = 10_000;
/** Well below the socket timeout of the role `blocking`, which detects a dead connection by its silence. */
const BLOCK_MS = 1_000;
const ENTRIES_PER_READ = 500;
const RETRY_AFTER_MS = 50;
/** Entries that are read between two removals of what was read. */
const TRIM_AFTER = 64;

/**
 * Reads the replies to this start of this gateway from a separate stream. Its modes:
 *
 * *opening*: (re)connecting, or creating the stream. Leaves to *listening*.
 * *listening*: in `XREAD BLOCK` from the last id seen. Leaves to *opening* when the connection breaks or is silent.
 *   Nothing is lost meanwhile, because the stream keeps the entries and reading continues from the last id.
 * *closed*: final.
 */
export class ReplyReader {
  #mode: 'opening' | 'listening' | 'closed' = 'opening';
  #redis: Redis;
  #stream: string;
  #log: Log;
  #lastId = '0-0';
  #handlers = new Map<string, (outcome: Outcome) => void>();
  #onListening = new Set<() => void>();
  #closing = new AbortController();
  #loop: Promise<void>;
  #refreshedMs = 0;
  /** Entries read since the last removal. */
  #untrimmed = 0;

  /**
   * @param redis a dedicated connection, role `blocking`
   * @param gatewayId new at each start
   */
  constructor(redis: Redis, gatewayId: string, log: Log) {
    this.#redis = redis;
    this.#stream = names.replies(gatewayId);
    this.#log = log;
    redis.on('close', () => this.#leaveListening());
    this.#loop = this.#run();
  }

  /** Calls a function with the outcome of the item with this id, until {@link ignore}. */
  expect(id: string, onOutcome: (outcome: Outcome) => void): void {
    this.#handlers.set(id, onOutcome);
  }

  /** Ignores replies to the item with this id. */
  ignore(id: string): void {
    this.#handlers.delete(id);
  }

  /** Resolves to whether the reader is listening, or starts to within this time in milliseconds. */
  async listening(withinMs: number): Promise<boolean> {
    if (this.#mode === 'listening') return true;
    return new Promise((resolve) => {
      const settle = (listening: boolean) => {
        clearTimeout(timer);
        this.#onListening.delete(onListening);
        resolve(listening);
      };
      const onListening = () => settle(true);
      const timer = setTimeout(() => settle(false), withinMs);
      this.#onListening.add(onListening);
    });
  }

  /** Stops reading; the stream expires by itself. May be called twice. */
  async close(): Promise<void> {
    if (this.#mode === 'closed') return;
    this.#mode = 'closed';
    this.#closing.abort(new Error('The reply reader is closed'));
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
        for (const onListening of this.#onListening) onListening();
        while (this.#mode === 'listening') await this.#read();
      } catch (err) {
        if (this.#closing.signal.aborted) return;
        this.#leaveListening();
        this.#log.debug({ err }, 'Reading replies was interrupted');
        await delay(RETRY_AFTER_MS);
      }
    }
  }

  /** Renews the expiry of the stream. A stream that is gone is created, and read from its beginning. */
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
    const streams = await this.#redis.xreadBuffer(
      'COUNT',
      ENTRIES_PER_READ,
      'BLOCK',
      BLOCK_MS,
      'STREAMS',
      this.#stream,
      this.#lastId,
    );
    const entries = streams?.[0]?.[1] ?? [];
    for (const [id, fields] of entries) {
      this.#lastId = id.toString();
      if (fields[0]?.toString() === REPLY_FIELD) this.#deliver(fields[1]);
    }
    this.#untrimmed += entries.length;
    if (this.#untrimmed < TRIM_AFTER) return;
    this.#untrimmed = 0;
    // Replies with vectors are large, so those that were read are removed. The last one stays, so that the stream does.
    this.#redis
      .xtrim(this.#stream, 'MINID', this.#lastId)
      .catch((err: unknown) => this.#log.debug({ err }, 'Could not trim the replies'));
  }

  #deliver(packed: Buffer | undefined): void {
    const parsed = repliesSchema.safeParse(packed);
    if (!parsed.success) {
      this.#log.warn({ err: parsed.error }, 'Dropped a malformed reply');
      return;
    }
    // A second reply to the same item, or one after the deadline, has no handler.
    for (const { id, outcome } of parsed.data.replies) this.#handlers.get(id)?.(outcome);
  }
}
