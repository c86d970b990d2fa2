import { hostname, userInfo } from 'node:os';
import {
  connectRedis,
  createLog,
  isStorageFull,
  isWrongSetting,
  type KeyEvent,
  KeyNotLive,
  Keyring,
  recordKeyChange,
  redactUrls,
  redisTimeMs,
  requireDatabase,
} from '@sluice/shared';
import type { Redis } from 'ioredis';
import { CliError, UsageError } from './cliError.js';
import { redisUrl } from './terminal.js';

/**
 * Connects to Redis and calls an action with the keyring, Redis's time in milliseconds and the connection. Then closes the connection.
 * @throws CliError or UsageError with what to do
 */
export async function withKeyring(
  action: (keyring: Keyring, nowMs: number, redis: Redis) => Promise<void>,
): Promise<void> {
  const url = await redisUrl();
  const redis: Redis = connectRedis(
    url,
    'command',
    createLog('sluice', { LOG_LEVEL: 'silent', LOG_FORMAT: 'json' }),
  );
  let connectionError: unknown;
  redis.on('error', (error: unknown) => {
    connectionError = error;
  });
  try {
    const nowMs = await redisTimeMs(redis).catch((cause: unknown) => {
      const error = connectionError ?? cause;
      const reason = error instanceof Error ? error.message : String(error);
      if (isWrongSetting(error)) throw new UsageError(`REDIS_URL: ${redactUrls(url)}: ${reason}`, { cause });
      throw new CliError(
        `Redis at ${redactUrls(url)} does not answer (${reason}). Start Sluice (npm start), or check REDIS_URL.`,
        { cause },
      );
    });
    await requireDatabase(redis);
    await action(new Keyring(redis), nowMs, redis);
  } catch (error) {
    if (isStorageFull(error)) {
      throw new CliError(
        'Redis is full, so it takes no changes. Erase finished jobs, or raise its maxmemory or free its disk.',
      );
    }
    throw error instanceof KeyNotLive ? new CliError(error.message) : error;
  } finally {
    redis.disconnect();
  }
}

/** Who runs this command, for the log. A user id in a container may have no name. */
function commandUser(): string {
  try {
    return `${userInfo().username}@${hostname()}`;
  } catch {
    return `uid ${process.getuid?.()}@${hostname()}`;
  }
}

/** Leaves a change for the log. The change itself has been made, and its secret shown, so an error is only a warning. */
export async function recordChange(redis: Redis, what: KeyEvent, keyId: string): Promise<void> {
  await recordKeyChange(redis, { what, keyId, by: commandUser() }).catch(() => {
    process.stderr.write(
      'sluice: the change was made, but could not be recorded for the log of the gateways\n',
    );
  });
}
