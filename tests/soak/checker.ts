import type { Received } from './client.js';

/** The guarantees that the checker verifies, by the name of their violation. */
const VIOLATIONS = {
  'wrong-output': 'an answer differs from the answer to the same text alone',
  'unexpected-status': 'a request is answered with a status that no fault explains',
  'failed-in-quiet': 'a request fails although no fault is in progress',
  'late-answer': 'a request is answered long after its deadline',
  'no-answer': 'a request is not answered at all',
  'not-submitted': 'a request is refused for a minute, although it is repeated',
  'job-lost': 'an accepted job does not exist',
  'job-not-ended': 'an accepted job does not end',
  'job-not-completed': 'an accepted job has ended with an unexpected status',
  'job-results': 'the results of a job are not exactly one for each index',
  'job-counts': 'the counts of a job do not match its results',
  'job-not-accepted': 'a job exists that nobody submitted',
  'item-error': 'a healthy text of a job gets an error',
  'result-changed': 'results that were read have changed',
  'changed-after-cancel': 'a canceled job, or its results, have changed',
  'webhook-missing': 'the end of a job is not delivered',
  'webhook-wrong': 'a delivery has another id, a wrong signature, or no job',
  'limit-exceeded': 'more requests or texts pass than a limit allows',
  'limit-refused-early': 'a request is refused although a slot must be free',
  'usage-counted-twice': 'the counted requests of a key exceed those that were sent',
  'left-in-redis': 'something remains in Redis after all jobs were erased',
  'left-processes': 'processes of a dead worker or gateway remain',
  'unexpected-exit': 'a process exits by itself, or a drain ends with another status than 0 or too late',
  'not-recovered': 'the fleet is not ready again half a minute after the last fault',
  'fault-missing': 'a kind of fault has never happened in a long run',
  leak: 'a process has grown, holds too many files, or has a wrong number of children',
} as const;
export type Violation = keyof typeof VIOLATIONS;

/** Maximum number of printed violations per name and seed. */
const SHOWN = 3;

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
  /** Interactive requests of a key that does not exceed its limits. */
  readonly interactive: Pick<Received, 'status' | 'sentMs' | 'endMs'>[] = [];
  seed = 0;

  recordInteractive({ status, sentMs, endMs }: Received): void {
    this.interactive.push({ status, sentMs, endMs });
  }

  violate(name: Violation, details: string): void {
    this.violations.push({ name, seed: this.seed, details });
    const same = this.violations.filter((other) => other.name === name && other.seed === this.seed);
    if (same.length > SHOWN) return;
    console.log(`VIOLATION ${name} (seed ${this.seed}): ${VIOLATIONS[name]}: ${details}`);
  }
}
