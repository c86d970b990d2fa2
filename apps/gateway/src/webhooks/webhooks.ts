import { setTimeout as delay } from 'node:timers/promises';
import {
  failSpan,
  isLive,
  type Keyring,
  type Log,
  names,
  PREFIX,
  type RedisClock,
  SpanKind,
  startSpan,
  traceContextOf,
} from '@sluice/shared';
import { DelayedError, type Job, Queue, UnrecoverableError, Worker } from 'bullmq';
import type { Redis } from 'ioredis';
import { Webhook } from 'standardwebhooks';
import { ConcurrencyLimit } from '../limits/concurrencyLimit.js';
import { eventIdOf, eventOf, type OutboxEntry, outboxEntrySchema } from './event.js';
import { send } from './send.js';

/** Deliveries of a key at once, at all gateways together. */
const PER_KEY = 4;
/** Deliveries of this gateway at once. */
const CONCURRENCY = 16;
/** A delivery whose key has {@link PER_KEY} others waits this long, in milliseconds: longer the older it is. */
const WAIT_MS = { least: 250, most: 10_000 };
/** Entries that are moved from the outbox at once. */
const MOVED_AT_ONCE = 100;
/** The delivery of a gateway that died is taken by another one after this long, in milliseconds. */
const LOCK_MS = 5_000;
/** No practical limit: a delivery is repeated however often gateways die. */
const MAX_STALLED = 1_000_000;
/** A drain waits for deliveries for at most this long, in milliseconds; without Redis it hardly waits. */
const DRAIN_MS = 3_000;
const AWAY_MS = 200;
/** The receiver wants no more of these events. */
const GONE = 410;

/** Random, so that not all that wait come back at once. */
const waitMs = (ageMs: number) =>
  Math.min(WAIT_MS.most, Math.max(WAIT_MS.least, ageMs / 4)) * (0.5 + Math.random() / 2);

interface WebhooksOptions {
  redis: Redis;
  /** A separate connection, for the queue of deliveries. */
  blocking: Redis;
  keyring: Keyring;
  clock: RedisClock;
  /** Pauses between the attempts of a delivery, in milliseconds. */
  pausesMs: readonly number[];
  allowPrivate: boolean;
  /** Called after each attempt. */
  onAttempt: (outcome: 'delivered' | 'failed' | 'abandoned') => void;
  /** For the header field `User-Agent`. */
  version: string;
  log: Log;
}

/**
 * Notifies the receivers of webhooks when jobs end, at least once each. The script that ends a job appends an entry to the
 * outbox. The sweep moves it into a queue, under the id of the event, from which any gateway delivers it.
 */
export class Webhooks {
  #options: WebhooksOptions;
  #queue: Queue<OutboxEntry>;
  #worker: Worker<OutboxEntry>;
  #concurrency: ConcurrencyLimit;

  constructor(options: WebhooksOptions) {
    this.#options = options;
    const { redis, blocking, pausesMs, onAttempt, log } = options;
    this.#concurrency = new ConcurrencyLimit(redis, PER_KEY, log);
    this.#queue = new Queue(names.deliveries, { connection: redis, prefix: PREFIX, skipVersionCheck: true });
    this.#worker = new Worker(names.deliveries, (job, token) => this.#deliver(job, token), {
      connection: blocking,
      prefix: PREFIX,
      skipVersionCheck: true,
      concurrency: CONCURRENCY,
      lockDuration: LOCK_MS,
      stalledInterval: LOCK_MS,
      maxStalledCount: MAX_STALLED,
      settings: { backoffStrategy: (attempts) => pausesMs[attempts - 1] ?? 0 },
    });
    this.#queue.on('error', (err) => log.debug({ err }, 'Queue error'));
    this.#worker.on('error', (err) => log.debug({ err }, 'Queue error'));
    this.#worker.on('failed', (job, err) => {
      if (job === undefined) return;
      const isLast = job.attemptsMade > pausesMs.length || err instanceof UnrecoverableError;
      onAttempt(isLast ? 'abandoned' : 'failed');
      log[isLast ? 'warn' : 'info'](
        { event_id: job.id, key_id: job.data.key, attempt: job.attemptsMade, reason: err.message },
        isLast ? 'Webhook delivery abandoned' : 'Webhook delivery failed, will retry',
      );
    });
  }

  /** Moves the ends of jobs from the outbox into the queue. An entry is removed only when it is in the queue. */
  async moveOutbox(): Promise<void> {
    const { redis, pausesMs, log } = this.#options;
    for (const text of await redis.lrange(names.outbox, 0, MOVED_AT_ONCE - 1)) {
      const entry = outboxEntrySchema.safeParse(text);
      if (entry.success) {
        await this.#queue.add('webhook', JSON.parse(text), {
          jobId: eventIdOf(entry.data),
          attempts: pausesMs.length + 1,
          backoff: { type: 'custom' },
          removeOnComplete: true,
          removeOnFail: true,
        });
      } else log.warn('Dropped a malformed outbox entry');
      await redis.lrem(names.outbox, 1, text);
    }
  }

  /**
   * Takes no more deliveries, and finishes those it has if they end in time. Another gateway repeats the others.
   * @param withinMs how long they may take, if that is less than {@link DRAIN_MS}
   */
  async close(withinMs: number): Promise<void> {
    const { blocking, clock, log } = this.#options;
    const { away } = clock;
    const closed = Promise.all([this.#worker.close(away), this.#queue.close()]).catch((err: unknown) =>
      log.debug({ err }, 'Could not close the queue of deliveries'),
    );
    // With Redis away BullMQ would wait for it.
    await Promise.race([
      closed,
      delay(away ? AWAY_MS : Math.min(withinMs, DRAIN_MS), undefined, { ref: false }),
    ]);
    blocking.disconnect();
  }

  async #deliver(job: Job<OutboxEntry>, token: string | undefined): Promise<void> {
    const { keyring, clock, allowPrivate, onAttempt, version, log } = this.#options;
    const entry = outboxEntrySchema.parse(JSON.stringify(job.data));
    const key = await keyring.read(entry.key);
    const nowMs = clock.now() ?? Date.now();
    if (key === undefined || !isLive(key, nowMs))
      throw new UnrecoverableError('The API key is revoked or expired');
    if (key.webhookSecret === undefined)
      throw new UnrecoverableError('The API key no longer has a signing secret');
    const end = await this.#concurrency.begin(names.webhookDeliveries(entry.key));
    if (end === undefined) {
      await job.moveToDelayed(Date.now() + waitMs(Date.now() - job.timestamp), token);
      throw new DelayedError();
    }
    const span = entry.trace && startSpan('deliver webhook', { kind: SpanKind.CLIENT, links: [entry.trace] });
    // The state of the caller's tracing system is not for the receiver.
    const traceparent = span && traceContextOf(span)?.traceparent;
    try {
      const event = eventOf(entry);
      const body = JSON.stringify(event);
      const sentAt = new Date();
      const status = await send(
        entry.webhook.url,
        {
          'User-Agent': `Sluice/${version}`,
          'webhook-id': event.id,
          'webhook-timestamp': String(Math.floor(sentAt.getTime() / 1000)),
          'webhook-signature': new Webhook(key.webhookSecret).sign(event.id, sentAt, body),
          ...(traceparent ? { traceparent } : {}),
        },
        body,
        allowPrivate,
      );
      span?.setAttribute('http.response.status_code', status);
      if (status === GONE) throw new UnrecoverableError('The receiver answered 410');
      if (status < 200 || status > 299) throw new Error(`The receiver answered ${status}`);
      onAttempt('delivered');
      log.info({ event_id: event.id, key_id: entry.key, type: event.type }, 'Webhook delivered');
    } catch (error) {
      if (span) failSpan(span, 'not_delivered');
      throw error;
    } finally {
      span?.end();
      end();
    }
  }
}
