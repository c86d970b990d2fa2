import {
  dayOf,
  type KeyRecord,
  type KeyUsage,
  type Log,
  type RedisClock,
  USED_EVERY_MS,
  type Usage,
} from '@sluice/shared';

const FLUSH_EVERY_MS = 1_000;
/** Keys per call, because a script blocks Redis. */
const KEYS_PER_REPORT = 200;

/**
 * Counts the usage of each key in this process and reports it to Redis once a second, so that no request waits for it. A
 * report that Redis has not confirmed is repeated with the same number, so it counts once. A gateway that is killed
 * loses the usage of its last second.
 */
export class UsageCounter {
  #usage: Usage;
  #clock: RedisClock;
  #gatewayId: string;
  #log: Log;
  /** Not reported yet, by key and day. */
  #counted = new Map<string, KeyUsage>();
  /** Reports that Redis has not confirmed, in order. */
  #reports: { number: number; counted: KeyUsage[] }[] = [];
  #number = 0;
  #flushing: Promise<void> | undefined;
  #timer: NodeJS.Timeout;

  constructor(usage: Usage, clock: RedisClock, gatewayId: string, log: Log) {
    this.#usage = usage;
    this.#clock = clock;
    this.#gatewayId = gatewayId;
    this.#log = log;
    this.#timer = setInterval(() => void this.flush(), FLUSH_EVERY_MS);
  }

  /** Records that a key was used, unless its record already has a recent time. */
  used({ id, lastUsedAtMs = 0 }: KeyRecord, nowMs: number): void {
    if (nowMs - lastUsedAtMs >= USED_EVERY_MS) this.#today(id).usedAtMs = nowMs;
  }

  /** Records a request that used a slot, and how many texts it had answered or accepted. */
  request(keyId: string, texts: number): void {
    const today = this.#today(keyId);
    today.requests++;
    today.texts += texts;
  }

  /** Records a refused request. */
  refused(keyId: string): void {
    this.#today(keyId).refused++;
  }

  /** Reports the usage to Redis, if Redis answers. */
  flush(): Promise<void> {
    this.#flushing ??= this.#flush().finally(() => {
      this.#flushing = undefined;
    });
    return this.#flushing;
  }

  /** Reports the rest. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#flushing;
    await this.flush();
  }

  async #flush(): Promise<void> {
    const nowMs = this.#clock.now();
    if (nowMs === undefined || this.#clock.away) return;
    // While earlier reports are not confirmed, new usage is only added up.
    if (!(await this.#send(nowMs))) return;
    const all = [...this.#counted.values()];
    this.#counted.clear();
    for (let i = 0; i < all.length; i += KEYS_PER_REPORT) {
      this.#reports.push({ number: ++this.#number, counted: all.slice(i, i + KEYS_PER_REPORT) });
    }
    await this.#send(nowMs);
  }

  /** Sends the reports; resolves to whether Redis has confirmed all of them. */
  async #send(nowMs: number): Promise<boolean> {
    for (let report = this.#reports[0]; report !== undefined; report = this.#reports[0]) {
      try {
        const id = { gatewayId: this.#gatewayId, number: report.number };
        const skipped = await this.#usage.add(id, report.counted, nowMs);
        if (skipped.length > 0) this.#log.warn({ skipped }, 'Malformed usage records skipped');
      } catch (err) {
        this.#log.debug({ err }, 'Could not report usage yet');
        return false;
      }
      this.#reports.shift();
    }
    return true;
  }

  #today(keyId: string): KeyUsage {
    const date = dayOf(this.#clock.now() ?? 0);
    const field = `${keyId} ${date}`;
    const known = this.#counted.get(field);
    if (known) return known;
    const usage = { keyId, date, requests: 0, texts: 0, refused: 0, usedAtMs: 0 };
    this.#counted.set(field, usage);
    return usage;
  }
}
