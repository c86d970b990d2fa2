import {
  type Counted,
  dayOf,
  type KeyRecord,
  type Log,
  type RedisClock,
  USED_EVERY_MS,
  type Usage,
} from '@sluice/shared';

const FLUSH_EVERY_MS = 1_000;
/** Keys that one call brings to Redis: it holds up everybody else's. */
const KEYS_AT_ONCE = 200;

/**
 * Counts what is done with each key, and brings it to Redis once a second: no request waits for it or pays for a call
 * of its own. What Redis has not confirmed is brought again under the same number, so it counts once. A gateway that is
 * killed loses what it counted in its last second.
 */
export class UsageLog {
  #usage: Usage;
  #clock: RedisClock;
  #gatewayId: string;
  #log: Log;
  /** By key and day. */
  #counted = new Map<string, Counted>();
  /** What goes to Redis, each under its number, in order. */
  #calls: { number: number; counted: Counted[] }[] = [];
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

  /** Notes that a key was used, unless its record has heard that lately. */
  used({ id, lastUsedAtMs = 0 }: KeyRecord, nowMs: number): void {
    if (nowMs - lastUsedAtMs >= USED_EVERY_MS) this.#of(id).usedAtMs = nowMs;
  }

  /** Notes a request that took a place in its key's limit, and the texts that it had answered or accepted. */
  request(keyId: string, texts: number): void {
    const counted = this.#of(keyId);
    counted.requests++;
    counted.texts += texts;
  }

  /** Notes a request of a key that was refused. */
  refused(keyId: string): void {
    this.#of(keyId).refused++;
  }

  /** Brings what is counted to Redis, if it answers. */
  flush(): Promise<void> {
    this.#flushing ??= this.#flush().finally(() => {
      this.#flushing = undefined;
    });
    return this.#flushing;
  }

  /** Brings what is left. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#flushing;
    await this.flush();
  }

  async #flush(): Promise<void> {
    const nowMs = this.#clock.now();
    if (nowMs === undefined || this.#clock.away) return;
    // While Redis refuses what was counted before, more of it is added up here.
    if (!(await this.#send(nowMs))) return;
    const all = [...this.#counted.values()];
    this.#counted.clear();
    for (let i = 0; i < all.length; i += KEYS_AT_ONCE) {
      this.#calls.push({ number: ++this.#number, counted: all.slice(i, i + KEYS_AT_ONCE) });
    }
    await this.#send(nowMs);
  }

  /** Sends what goes to Redis; resolves to whether all of it has arrived. */
  async #send(nowMs: number): Promise<boolean> {
    for (let call = this.#calls[0]; call !== undefined; call = this.#calls[0]) {
      try {
        const id = { gatewayId: this.#gatewayId, number: call.number };
        const left = await this.#usage.add(id, call.counted, nowMs);
        if (left.length > 0) this.#log.warn({ left }, 'Usage of some keys cannot be counted');
      } catch (err) {
        this.#log.debug({ err }, 'Usage could not be counted yet');
        return false;
      }
      this.#calls.shift();
    }
    return true;
  }

  #of(keyId: string): Counted {
    const date = dayOf(this.#clock.now() ?? 0);
    const of = `${keyId} ${date}`;
    const known = this.#counted.get(of);
    if (known) return known;
    const counted = { keyId, date, requests: 0, texts: 0, refused: 0, usedAtMs: 0 };
    this.#counted.set(of, counted);
    return counted;
  }
}
