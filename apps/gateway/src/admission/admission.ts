import {
  type Lane,
  type Log,
  type ModelSpec,
  type OtherGateways,
  type RedisClock,
  removeUnanswered,
  type ServedModelReport,
  shareUnanswered,
} from '@sluice/shared';
import type { Redis } from 'ioredis';
import { fromRedis, Problem } from '../http/problem.js';
import { predictedWaitMs, refusalOf, type WorkAhead } from './prediction.js';

/** How often gateways tell each other how many rows are unanswered, in milliseconds. */
const SHARE_EVERY_MS = 250;

interface AdmissionOptions {
  redis: Redis;
  clock: RedisClock;
  /** Names this gateway to the others. */
  gatewayId: string;
  spec: ModelSpec;
  lane: Lane;
  /** What the live workers report about the model, as read recently. */
  reports: () => readonly ServedModelReport[];
  /** Why live workers cannot serve the model; undefined if no live worker reports an error. */
  error: () => string | undefined;
  /** Reads these reports from Redis now. */
  refresh: () => Promise<void>;
  /** Rows of this gateway without an outcome, in this lane. */
  unansweredRows: () => number;
  /** Rows that go first and are not counted here, such as those of jobs; read {@link SHARE_EVERY_MS}. */
  readRowsBefore: () => Promise<number>;
  log: Log;
}

/**
 * Admits a request of a model's lane only if it can be answered in time. It refuses at once when no live worker serves the model,
 * and when the unanswered rows would outlast the request's deadline at the rate that the workers report.
 *
 * Rows of this gateway are counted; those of other gateways are read every {@link SHARE_EVERY_MS}. Each completed
 * request frees capacity for another, so admission does not oscillate: under steady overload, as many items are admitted as are
 * answered. A gateway that joins late gets its fair share, and the others admit less. Until gateways have
 * read each other's counts, each may admit a burst.
 */
export class Admission {
  #options: AdmissionOptions;
  #others: OtherGateways = { gateways: 0, rows: 0 };
  #rowsBefore = 0;
  #sharing = false;
  #timer: NodeJS.Timeout;

  constructor(options: AdmissionOptions) {
    this.#options = options;
    this.#timer = setInterval(() => {
      this.#share().catch((err: unknown) => options.log.debug({ err }, 'Could not share unanswered counts'));
    }, SHARE_EVERY_MS);
  }

  /**
   * Checks that a live worker serves the model. Recent reports are enough to admit an item, but not to refuse one.
   * @throws Problem `no_worker` or `unavailable`
   */
  async requireWorker(): Promise<void> {
    if (this.#options.reports().length > 0) return;
    await fromRedis(this.#options.refresh());
    if (this.#options.reports().length > 0) return;
    const error = this.#options.error();
    throw new Problem(
      'no_worker',
      error === undefined
        ? {}
        : { detail: `No live worker serves this model: it could not be loaded (${error})` },
    );
  }

  /**
   * Checks that an answer can be expected in time. It is synchronous, and an admitted item must be submitted in the same
   * tick; otherwise items that arrive at the same time would not be counted.
   * @param rows of the request
   * @param timeoutMs from now to the deadline
   * @throws Problem `overloaded`; `validation_failed` if the request would be too late even if it were the only one;
   *   `no_worker` if the last worker has ended in the meantime
   */
  admit(rows: number, timeoutMs: number): void {
    if (this.#options.reports().length === 0) throw new Problem('no_worker');
    const refusal = this.refusal(rows, timeoutMs);
    if (refusal) throw refusal;
  }

  /**
   * The refusal of a request if the unanswered rows would take too long; undefined otherwise. It does not check that a live
   * worker serves the model.
   */
  refusal(rows: number, timeoutMs: number): Problem | undefined {
    const refusal = refusalOf(this.#ahead, rows, timeoutMs);
    switch (refusal?.kind) {
      case undefined:
        return undefined;
      case 'too_much_work':
        return tooMuchWork(refusal.workMs, timeoutMs);
      case 'overloaded':
        return new Problem('overloaded', {
          headers: { 'Retry-After': String(Math.ceil(refusal.retryAfterMs / 1000)) },
        });
    }
  }

  /**
   * Time until a request that arrives now would be answered, in milliseconds; undefined while no live worker reports a rate.
   * @param rows of the request
   */
  predictedWaitMs(rows: number): number | undefined {
    return predictedWaitMs(this.#ahead, rows);
  }

  get #ahead(): WorkAhead {
    return {
      rowsPerSecond: this.#options.reports().reduce((sum, report) => sum + report.rowsPerSecond, 0),
      ownRows: this.#options.unansweredRows(),
      otherRows: this.#others.rows,
      otherGateways: this.#others.gateways,
      rowsBefore: this.#rowsBefore,
    };
  }

  /** Unanswered rows of this gateway and the others. */
  get unansweredRows(): number {
    return this.#options.unansweredRows() + this.#others.rows;
  }

  /** Removes this gateway's count, if Redis answers; otherwise the count expires. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    const { redis, spec, lane, gatewayId, log } = this.#options;
    await removeUnanswered(redis, spec.id, lane, gatewayId).catch((err: unknown) =>
      log.debug({ err }, 'Could not remove the unanswered count'),
    );
  }

  async #share(): Promise<void> {
    const { redis, clock, gatewayId, spec, lane, unansweredRows, readRowsBefore } = this.#options;
    const nowMs = clock.now();
    if (this.#sharing || clock.away || nowMs === undefined) return;
    this.#sharing = true;
    try {
      this.#others = await shareUnanswered(redis, spec, lane, { gatewayId, rows: unansweredRows(), nowMs });
      this.#rowsBefore = await readRowsBefore();
    } finally {
      this.#sharing = false;
    }
  }
}

/** The error for a request that no waiting would help. */
const tooMuchWork = (workMs: number, timeoutMs: number) =>
  new Problem('validation_failed', {
    errors: [
      {
        pointer: '/inputs',
        detail:
          `The live workers need about ${Math.ceil(workMs / 1000)} s for this request, and its deadline is ` +
          `${timeoutMs / 1000} s. Send fewer inputs, or submit a job`,
      },
    ],
  });
