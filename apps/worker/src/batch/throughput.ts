/** What was so long ago counts for a third, in milliseconds. */
const MEMORY_MS = 2_000;

/**
 * How many texts a model process answers in a second, lately: texts by the time that their runs took, not by the time
 * that went by, so that it holds for what comes when there is little to do now.
 */
export class Throughput {
  #texts: number;
  #busyMs: number;
  #notedMs = 0;

  /** @param msPerText a first guess, which soon counts for nothing */
  constructor(msPerText: number) {
    this.#texts = 1;
    this.#busyMs = Math.max(msPerText, 1e-3);
  }

  /**
   * Notes a run of one text or more.
   * @param nowMs when it ended
   */
  note({ texts, busyMs, nowMs }: { texts: number; busyMs: number; nowMs: number }): void {
    const kept = Math.exp((this.#notedMs - nowMs) / MEMORY_MS);
    this.#texts = this.#texts * kept + texts;
    this.#busyMs = this.#busyMs * kept + busyMs;
    this.#notedMs = nowMs;
  }

  get textsPerSecond(): number {
    return (1000 * this.#texts) / this.#busyMs;
  }
}
