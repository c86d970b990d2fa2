import { Redis, type RedisOptions } from 'ioredis';
import type { Log } from '../log.js';

/** A command that Redis has not answered after this long fails. */
export const COMMAND_TIMEOUT_MS = 800;

const retryStrategy = (times: number) => Math.min(50 * times, 500);

/**
 * What each role of a connection needs. `socketTimeout` closes, and so reopens, a connection on which an answer is
 * due and nothing comes: it is dead, whatever TCP thinks.
 */
const roles = {
  /**
   * A request waits: fail at once when Redis is away, never queue for later. What the connection lost must fail too:
   * sent again, a command that has run already would run twice, and take two places.
   */
  request: {
    maxRetriesPerRequest: 0,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    commandTimeout: COMMAND_TIMEOUT_MS,
    socketTimeout: 3_000,
  },
  /**
   * Blocking reads of a second. ioredis would apply `commandTimeout` to them too. A read that the connection lost
   * must fail, not be sent again, so that its owner goes on from the last id it saw.
   */
  blocking: {
    maxRetriesPerRequest: 0,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    socketTimeout: 3_000,
  },
  /** A subscription: renewed at each reconnect. */
  subscriber: { maxRetriesPerRequest: null, commandTimeout: 5_000 },
  /** Work goes on when Redis is back: wait for it however long. BullMQ's blocking reads last up to 10 s. */
  worker: { maxRetriesPerRequest: null, socketTimeout: 15_000 },
  /** A command line: say soon that Redis is away. */
  command: { maxRetriesPerRequest: 1, commandTimeout: 5_000, connectTimeout: 3_000 },
} as const satisfies Record<string, RedisOptions>;

export type RedisRole = keyof typeof roles;

/**
 * Opens a connection. It reconnects by itself until `disconnect()` or `quit()`.
 * @param url `redis://` or `rediss://`
 * @param role what the connection is for
 * @param log where connection errors go: the first of an outage as a warning, its repetitions as debug
 */
export function connectRedis(url: string, role: RedisRole, log: Log): Redis {
  const redis = new Redis(url, { ...roles[role], retryStrategy, connectionName: `sluice-${role}` });
  let reported = false;
  redis.on('error', (err: unknown) => {
    log[reported ? 'debug' : 'warn']({ err, role }, 'Redis connection error');
    reported = true;
  });
  redis.on('ready', () => {
    if (reported) log.info({ role }, 'Redis connection is back');
    reported = false;
  });
  return redis;
}

/** Resolves when the connection can take commands; it may already. Rejects when `signal` aborts. */
export async function whenReady(redis: Redis, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  if (redis.status === 'ready') return;
  return new Promise((resolve, reject) => {
    const done = () => {
      signal?.removeEventListener('abort', aborted);
      resolve();
    };
    const aborted = () => {
      redis.off('ready', done);
      reject(signal?.reason);
    };
    redis.once('ready', done);
    signal?.addEventListener('abort', aborted, { once: true });
  });
}
