import type { Checker } from './checker.js';
import type { Received } from './client.js';
import type { FaultRecord } from './faults.js';

/** Windows of the two limited keys. */
export const LIMITS = {
  requests: { limit: 20, windowMs: 3_000 },
  texts: { limit: 60, windowMs: 3_000 },
} as const;
export type LimitedUnit = keyof typeof LIMITS;

/** A request that used, or may have used, a window of a limited key. */
interface LimitedRequest {
  sentMs: number;
  endMs: number;
  cost: number;
  /** `maybe`: no answer. `free`: a 503, whose slot is returned. */
  outcome: 'taken' | 'refused' | 'maybe' | 'free';
}

/** A slot becomes free at most one tick late; the rest is for clocks and rounding. */
const slackMs = (windowMs: number) => Math.max(1, windowMs / 10_000) + 20;
/** Redis takes no slot later than this after the client's answer: the gateway sets a limit of 800 ms, and clocks differ a little. */
const TAKEN_WITHIN_MS = 1_000;
/** A slot is returned at most this long after the answer and after the end of each fault that delayed it. */
const RETURNED_WITHIN_MS = 1_000;
/** A gateway retries a refund. If it dies within this time after the answer, the refund may be lost. */
const MAY_BE_LOST_MS = 5_000;

/**
 * Checks the windows of a limited key. Every check is conservative: it uses only what must be true, whatever happened between the times
 * at which the client sent a request and received its answer.
 */
export class LimitChecks {
  #checker: Checker;
  #unit: LimitedUnit;
  #requests: LimitedRequest[] = [];

  constructor(checker: Checker, unit: LimitedUnit) {
    this.#checker = checker;
    this.#unit = unit;
  }

  record({ status, text, sentMs, endMs }: Received, cost: number): void {
    // Of /embed, a 429 can also mean that the server is overloaded, which uses no slot.
    const isRefused = status === 429 && /rate limit/i.test(text);
    const isFree = status === 503 || (status === 429 && !isRefused);
    const outcome = isRefused ? 'refused' : isFree ? 'free' : status === 'broken' ? 'maybe' : 'taken';
    this.#requests.push({ sentMs, endMs, cost, outcome });
  }

  /** Checks the requests of a seed, and forgets them. */
  check(faults: readonly FaultRecord[]): void {
    const sorted = this.#requests.toSorted((one, other) => one.sentMs - other.sentMs);
    this.#requests = [];
    this.#checkExceeded(sorted);
    this.#checkRefusedEarly(sorted, faults);
  }

  #checkExceeded(sorted: readonly LimitedRequest[]): void {
    const { limit, windowMs } = LIMITS[this.#unit];
    for (const [i, first] of sorted.entries()) {
      let taken = 0;
      for (const other of sorted.slice(i)) {
        if (other.sentMs >= first.sentMs + windowMs) break;
        if (other.outcome === 'taken' && other.endMs < first.sentMs + windowMs) taken += other.cost;
      }
      if (taken > limit) {
        this.#checker.violate(
          'limit-exceeded',
          `${taken} ${this.#unit} within ${windowMs} ms, the limit is ${limit}`,
        );
        return;
      }
    }
  }

  #checkRefusedEarly(sorted: readonly LimitedRequest[], faults: readonly FaultRecord[]): void {
    const { limit, windowMs } = LIMITS[this.#unit];
    const requests = sorted.map((request) => ({ ...request, returnedMs: returnedMs(request, faults) }));
    for (const refused of requests.filter(({ outcome }) => outcome === 'refused')) {
      const fromMs = refused.sentMs - windowMs - slackMs(windowMs);
      let most = 0;
      for (const other of requests) {
        const takenMs = other.outcome === 'taken' ? other.endMs : other.endMs + TAKEN_WITHIN_MS;
        if (takenMs < fromMs || other.sentMs > refused.endMs) continue;
        const isHeld = other.outcome === 'free' && other.returnedMs > refused.sentMs;
        if (other.outcome === 'taken' || other.outcome === 'maybe' || isHeld) most += other.cost;
      }
      if (most + refused.cost <= limit) {
        this.#checker.violate(
          'limit-refused-early',
          `${refused.cost} ${this.#unit} refused with at most ${most} of ${limit} used`,
        );
        return;
      }
    }
  }
}

/**
 * The latest time at which the slot of a 503 is free again; Infinity if a fault near it may have lost the refund. Each fault that begins
 * before that time delays the refund further.
 * @param faults in the order in which they began
 */
function returnedMs({ outcome, sentMs, endMs }: LimitedRequest, faults: readonly FaultRecord[]): number {
  if (outcome !== 'free') return endMs;
  let latestMs = endMs + RETURNED_WITHIN_MS;
  for (const { cuts, startMs, endMs: faultEndMs = Number.POSITIVE_INFINITY } of faults) {
    if (cuts && startMs < endMs + MAY_BE_LOST_MS && faultEndMs + RETURNED_WITHIN_MS > sentMs)
      return Number.POSITIVE_INFINITY;
    if (startMs < latestMs && faultEndMs > sentMs)
      latestMs = Math.max(latestMs, faultEndMs + RETURNED_WITHIN_MS);
  }
  return latestMs;
}
