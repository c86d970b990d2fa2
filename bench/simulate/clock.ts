import TinyQueue from 'tinyqueue';

interface Event {
  atMs: number;
  /** Of events at the same time the first one scheduled comes first. */
  number: number;
  run: () => void;
}

/** The virtual time of a simulation. */
export class Clock {
  nowMs = 0;
  #events = new TinyQueue<Event>([], (one, other) => one.atMs - other.atMs || one.number - other.number);
  #scheduled = 0;

  /** Runs something after this many milliseconds. */
  after(ms: number, run: () => void): void {
    this.#events.push({ atMs: this.nowMs + Math.max(0, ms), number: ++this.#scheduled, run });
  }

  /** Runs something every `ms` milliseconds. */
  every(ms: number, run: () => void): void {
    this.after(ms, () => {
      run();
      this.every(ms, run);
    });
  }

  /** Runs all events up to this time. */
  runUntil(endMs: number): void {
    for (let next = this.#events.peek(); next && next.atMs <= endMs; next = this.#events.peek()) {
      this.#events.pop();
      this.nowMs = next.atMs;
      next.run();
    }
    this.nowMs = endMs;
  }
}
