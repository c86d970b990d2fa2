import type { KeyRecord } from '@sluice/shared';
import type { RateLimit, Slot } from './rateLimit.js';

/**
 * A slot that is taken while the record of the key is still being read, by the record as it was read before. So both need one
 * write to Redis. It must end with {@link takeFor} or {@link cancel}.
 */
export class EarlySlot {
  #rateLimit: RateLimit;
  #record: KeyRecord;
  #taking: Promise<Slot>;

  constructor(rateLimit: RateLimit, record: KeyRecord) {
    this.#rateLimit = rateLimit;
    this.#record = record;
    this.#taking = rateLimit.take(record);
    // An error counts only if the key is valid.
    this.#taking.catch(() => {});
  }

  /** The slot, if the record still has the same limits; else it is returned, and another one taken. @throws as `take` */
  async takeFor(record: KeyRecord): Promise<Slot> {
    if (this.#rateLimit.hasSameLimits(this.#record, record)) return this.#taking;
    this.cancel();
    return this.#rateLimit.take(record);
  }

  /** Returns the slot. */
  cancel(): void {
    this.#taking.then(
      (slot) => slot.refund(),
      () => {},
    );
  }
}
