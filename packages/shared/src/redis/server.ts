import type { Redis } from 'ioredis';
import { EXIT_CONFIG, SettingsError } from '../config/settings.js';
import type { Log } from '../log.js';
import { StartError } from '../process/lifecycle.js';
import { isWrongSetting } from './errors.js';

/** The scripts need `LMOVE`, and BullMQ needs blocking reads with fractions of a second. */
const MIN_VERSION = [6, 2] as const;

/** Why Sluice cannot use a server, judged by its `INFO`; undefined when it can. */
export function unsupportedReason(info: string): string | undefined {
  const field = (name: string) => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1];
  const version = field('redis_version') ?? '0';
  const [major = 0, minor = 0] = version.split('.').map(Number);
  if (major < MIN_VERSION[0] || (major === MIN_VERSION[0] && minor < MIN_VERSION[1])) {
    return `version ${version} is too old; use ${MIN_VERSION.join('.')} or later`;
  }
  const policy = field('maxmemory_policy');
  if (policy !== undefined && policy !== 'noeviction') {
    return `maxmemory-policy must be noeviction, not ${policy}, which deletes jobs and keys when memory is short`;
  }
  return undefined;
}

/**
 * Checks that the server has the database of the connection's URL. ioredis itself would continue in database 0.
 * @throws SettingsError that names the database
 */
export async function requireDatabase(redis: Redis): Promise<void> {
  const { db = 0 } = redis.options;
  if (db === 0) return;
  await redis.select(db).catch((cause: unknown) => {
    if (cause instanceof Error && cause.name === 'ReplyError') {
      throw wrongSetting(redis, cause);
    }
    throw cause;
  });
}

/** The error for a refused connection: the word of Redis, and the database if that is the reason. */
function wrongSetting({ options }: Redis, cause: unknown): SettingsError {
  const message = messageOf(cause);
  const database = /DB index/.test(message) ? `database ${options.db}: ` : '';
  return new SettingsError(`REDIS_URL: ${database}${message}`, { cause });
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

/** The start waits this long for the server's `INFO`, in milliseconds, and then continues without it. */
const CHECK_MS = 1_000;

/**
 * Checks the server behind a connection each time it becomes ready. If the first server that answers is unsupported, or
 * refuses the password, the user or the certificate, the process exits. A later unsupported server, as after a failover, is only an error in the
 * log, because the data in Redis can still be served.
 * @returns resolves when the server is supported, or does not answer for now
 * @throws StartError or SettingsError with the reason
 */
export async function requireServer(redis: Redis, log: Log): Promise<void> {
  let wasSupported = false;
  const check = async () => {
    await requireDatabase(redis);
    const info = `${await redis.info('server')}\n${await redis.info('memory')}`;
    // A connection to a cluster has a connector that finds the right node.
    const isWrongUrl = redis.options.Connector === undefined && /^redis_mode:cluster/m.test(info);
    const reason = isWrongUrl
      ? 'the server is a node of a Redis Cluster; use redis+cluster://host:port'
      : unsupportedReason(info);
    if (reason === undefined) wasSupported = true;
    else if (wasSupported) log.error({ reason }, 'Unsupported Redis configuration');
    else throw new StartError(`REDIS_URL: unsupported Redis configuration: ${reason}`, EXIT_CONFIG);
  };
  await new Promise<void>((resolve, reject) => {
    let waiting = true;
    const proceed = () => {
      clearTimeout(timer);
      waiting = false;
      resolve();
    };
    const timer = setTimeout(proceed, CHECK_MS);
    const stop = (error: StartError | SettingsError) => {
      if (waiting) {
        clearTimeout(timer);
        waiting = false;
        reject(error);
        return;
      }
      log.fatal(error.message);
      process.exit(error instanceof StartError ? error.exitCode : EXIT_CONFIG);
    };
    const onReady = () => {
      check().then(proceed, (error: unknown) => {
        if (error instanceof StartError || error instanceof SettingsError) {
          stop(error);
          return;
        }
        log.warn({ err: error }, 'Could not check the Redis configuration');
        proceed();
      });
    };
    const onFailed = (error: unknown) => {
      if (!wasSupported && isWrongSetting(error)) stop(wrongSetting(redis, error));
    };
    redis.on('ready', onReady);
    redis.on('error', onFailed);
    redis.once('close', proceed);
    if (redis.status === 'ready') onReady();
  });
}
