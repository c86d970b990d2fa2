import type { Log } from '../log.js';
import { isWrongSetting } from './errors.js';

/**
 * Logs an outage of Redis in two lines, however many connections notice it: one with the cause when the first connection
 * fails, and one with the duration when all of them work again. A refusal of the password or the certificate has a line
 * as well.
 */
export class Outage {
  #failing = new Set<unknown>();
  #sinceMs = 0;
  #hasWorked = false;
  /** Whether this outage has a line. */
  #isLogged = false;
  /** Whether this outage was logged as a refusal. */
  #isRefused = false;

  /**
   * Records that a part of this process cannot use Redis.
   * @param part such as a connection
   * @param cause of the failure
   */
  begin(part: unknown, cause: unknown, log: Log): void {
    const isFirst = this.#failing.size === 0;
    this.#failing.add(part);
    if (isFirst) {
      this.#sinceMs = performance.now();
      this.#isRefused = false;
      this.#isLogged = false;
    }
    // A wrong password or certificate does not go away by itself. It may follow another error, as after a restart.
    // Until the first connection works, requireServer ends the process with that reason.
    if (isWrongSetting(cause) && !this.#hasWorked) return;
    const isLogged = this.#isLogged;
    this.#isLogged = true;
    if (isWrongSetting(cause) && !this.#isRefused) {
      this.#isRefused = true;
      log.error({ err: cause }, 'Redis refuses the connection; trying again until it accepts it');
    } else if (!isLogged) log.warn({ err: cause }, 'Redis cannot be used; trying again until it can');
    else log.debug({ err: cause }, 'Redis connection error');
  }

  /** Records that a part can use Redis again. */
  end(part: unknown, log: Log): void {
    const isKnown = this.#failing.delete(part);
    this.#hasWorked = true;
    if (!isKnown || this.#failing.size > 0 || !this.#isLogged) return;
    const seconds = Math.round((performance.now() - this.#sinceMs) / 100) / 10;
    log.info({ outage_seconds: seconds }, `Redis is back after ${seconds} s`);
  }

  /** Forgets a part that does not use Redis any more. */
  forget(part: unknown): void {
    this.#failing.delete(part);
  }
}
