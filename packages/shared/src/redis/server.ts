import type { Redis } from 'ioredis';
import { EXIT_CONFIG } from '../config/settings.js';
import type { Log } from '../log.js';
import { StartError } from '../process/lifecycle.js';

/** `LMOVE`, `GETEX`, blocking reads with parts of a second: what BullMQ and the scripts here use. */
const MIN_VERSION = [6, 2] as const;

/** What is wrong with a server, by its `INFO`; undefined when it will do. */
export function unfitness(info: string): string | undefined {
  const field = (name: string) => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1];
  const version = field('redis_version') ?? '0';
  const [major = 0, minor = 0] = version.split('.').map(Number);
  if (major < MIN_VERSION[0] || (major === MIN_VERSION[0] && minor < MIN_VERSION[1])) {
    return `it is version ${version}, and ${MIN_VERSION.join('.')} or later is needed`;
  }
  const policy = field('maxmemory_policy');
  if (policy !== undefined && policy !== 'noeviction') {
    return `its maxmemory-policy is ${policy}, which throws away jobs and keys when memory is short; set noeviction`;
  }
  return undefined;
}

/** A start waits so long for a look at the server, in milliseconds, and then goes on without. */
const LOOK_MS = 1_000;

/**
 * Looks at the server behind a connection each time that it is ready. The first one must do, whenever it comes: else the
 * process ends. One that comes later, as after a failover, is an error in the log: what stands in Redis is still served.
 * @returns resolves when a server was found to do, or does not answer for now
 * @throws StartError that says what is wrong with it
 */
export async function requireServer(redis: Redis, log: Log): Promise<void> {
  let wasFit = false;
  const look = async () => {
    const what = unfitness(`${await redis.info('server')}\n${await redis.info('memory')}`);
    if (what === undefined) wasFit = true;
    else if (wasFit) log.error({ reason: what }, 'This Redis will not do');
    else throw new StartError(`REDIS_URL: this Redis will not do: ${what}`, EXIT_CONFIG);
  };
  await new Promise<void>((resolve, reject) => {
    let waiting = true;
    const goOn = () => {
      clearTimeout(timer);
      waiting = false;
      resolve();
    };
    const timer = setTimeout(goOn, LOOK_MS);
    const onReady = () => {
      look().then(goOn, (error: unknown) => {
        if (!(error instanceof StartError)) {
          log.warn({ err: error }, 'Redis does not tell about itself');
          goOn();
        } else if (waiting) {
          clearTimeout(timer);
          reject(error);
        } else {
          log.fatal(error.message);
          process.exit(error.exitCode);
        }
      });
    };
    redis.on('ready', onReady);
    redis.once('close', goOn);
    if (redis.status === 'ready') onReady();
  });
}
