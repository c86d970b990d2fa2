import type { FaultRecord } from './faults.js';

/** The guarantees that the checker verifies, by the name of their violation. */
const VIOLATIONS = {
  'wrong-output': 'an answer is not the one that the text gets alone',
  'unexpected-status': 'a request is answered with a status that no fault explains',
  'failed-in-quiet': 'a request fails although no fault is in progress',
  'late-answer': 'a request is answered long after its deadline',
  'no-answer': 'a request is not answered at all',
  'not-submitted': 'a job cannot be submitted for a minute',
  'job-lost': 'an accepted job does not exist',
  'job-not-ended': 'an accepted job does not end',
  'job-not-completed': 'an accepted job ends in another way than completed or canceled',
  'job-results': 'the results of a job are not exactly one for each index',
  'job-counts': 'the counts of a job do not match its results',
  'job-not-accepted': 'a job exists that nobody submitted',
  'item-error': 'a healthy text of a job gets an error',
  'result-changed': 'results that were read have changed',
  'changed-after-cancel': 'the results of a canceled job have changed',
  'webhook-missing': 'the end of a job is not delivered',
  'webhook-wrong': 'a delivery has another id, a wrong signature, or no job',
  'limit-exceeded': 'more requests or texts pass than a limit allows',
  'limit-refused-early': 'a request is refused although a slot must be free',
  'usage-counted-twice': 'the usage of a key is more than it can be',
  'left-in-redis': 'something remains in Redis after all jobs were erased',
  'left-processes': 'processes of a dead worker or gateway remain',
  'unexpected-exit': 'a process exits by itself, or a drain ends with another status than 0 or too late',
  'not-recovered': 'the fleet is not ready again half a minute after the last fault',
  leak: 'a process has grown, holds too many files, or has a wrong number of children',
} as const;
export type Violation = keyof typeof VIOLATIONS;

/** Maximum number of printed violations per name and seed. */
const SHOWN = 3;

/** A request that used, or may have used, a window of a limited key. */
export interface LimitedRequest {
  sentMs: number;
  endMs: number;
  cost: number;
  /** `refused`: 429. `maybe`: no answer, or a 503 whose slot may be lost. */
  outcome: 'taken' | 'refused' | 'maybe' | 'free';
}

/** Collects what happened, and compares it with the guarantees. */
export class Checker {
  readonly violations: { name: Violation; seed: number; details: string }[] = [];
  readonly counts = {
    requests: 0,
    answers: 0,
    refused: 0,
    timedOut: 0,
    failed: 0,
    broken: 0,
    jobs: 0,
    results: 0,
    deliveries: 0,
  };
  /** When interactive requests that were answered with 200 were sent and answered. */
  readonly answered: { sentMs: number; endMs: number }[] = [];
  seed = 0;

  violate(name: Violation, details: string): void {
    this.violations.push({ name, seed: this.seed, details });
    const same = this.violations.filter((other) => other.name === name && other.seed === this.seed);
    if (same.length > SHOWN) return;
    console.log(`VIOLATION ${name} (seed ${this.seed}): ${VIOLATIONS[name]}: ${details}`);
  }

  /**
   * Checks one window of a key. Every check is conservative: it uses only what must be true, whatever happened between the times at
   * which the client sent a request and received its answer.
   */
  checkWindow(
    name: string,
    { limit, windowMs }: { limit: number; windowMs: number },
    requests: readonly LimitedRequest[],
    faults: readonly FaultRecord[],
  ): void {
    const sorted = requests.toSorted((one, other) => one.sentMs - other.sentMs);
    for (const [i, first] of sorted.entries()) {
      let taken = 0;
      for (const other of sorted.slice(i)) {
        if (other.sentMs >= first.sentMs + windowMs) break;
        if (other.outcome === 'taken' && other.endMs < first.sentMs + windowMs) taken += other.cost;
      }
      if (taken > limit) {
        this.violate('limit-exceeded', `${name}: ${taken} within ${windowMs} ms, the limit is ${limit}`);
        return;
      }
    }
    // A slot becomes free at most one tick late; the rest is for clocks and rounding.
    const slackMs = Math.max(1, windowMs / 10_000) + 20;
    for (const refused of sorted.filter(({ outcome }) => outcome === 'refused')) {
      const fromMs = refused.sentMs - windowMs - slackMs;
      let most = 0;
      for (const other of sorted) {
        if (other === refused || other.endMs < fromMs || other.sentMs > refused.endMs) continue;
        if (other.outcome === 'taken' || other.outcome === 'maybe') most += other.cost;
        // A refunded slot was taken for a moment.
        if (other.outcome === 'free' && other.endMs > refused.sentMs) most += other.cost;
      }
      const cut = faults.some(
        ({ cuts, startMs, endMs }) =>
          cuts && startMs < refused.endMs && (endMs ?? Number.POSITIVE_INFINITY) + windowMs > fromMs,
      );
      if (!cut && most + refused.cost <= limit) {
        this.violate('limit-refused-early', `${name}: refused with at most ${most} of ${limit} used`);
        return;
      }
    }
  }
}
