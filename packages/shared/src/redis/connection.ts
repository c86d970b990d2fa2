import { setTimeout as delay } from 'node:timers/promises';
import { Redis, type RedisOptions } from 'ioredis';
import type { Log } from '../log.js';
import type { ServerOptions } from './clusterConnector.js';
import { isFailover } from './errors.js';
import { names } from './names.js';
import { Outage } from './outage.js';
import { serverOptions } from './servers.js';

/** A command that Redis has not answered after this long fails. */
export const COMMAND_TIMEOUT_MS = 800;

const retryStrategy = (times: number) => Math.min(50 * times, 500);

/**
 * What each role of a connection needs. `socketTimeout` closes, and so reopens, a connection on which an answer is due
 * and nothing arrives: it is dead, even if TCP has not noticed.
 */
const roles = {
  /**
   * A request waits: fail at once when Redis is away, and never queue a command for later. Commands in flight when the
   * connection breaks must fail too. If ioredis sent them again, a command that had already run would run twice and
   * take two slots.
   */
  request: {
    maxRetriesPerRequest: 0,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    commandTimeout: COMMAND_TIMEOUT_MS,
    socketTimeout: 3_000,
  },
  /**
   * Blocking reads of one second. ioredis would apply `commandTimeout` to them too. A read whose connection breaks must
   * fail rather than be sent again, so that its owner continues from the last id it saw.
   */
  blocking: {
    maxRetriesPerRequest: 0,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    socketTimeout: 3_000,
  },
  /** A subscription, which {@link keepSubscribed} renews at each reconnect. */
  subscriber: { maxRetriesPerRequest: null, autoResubscribe: false, commandTimeout: 3_000 },
  /** Work continues when Redis is back: wait for it without a limit. Blocking reads last one second. */
  worker: { maxRetriesPerRequest: null, socketTimeout: 3_000 },
  /** The same for BullMQ's own loop, whose blocking reads last up to 10 s. */
  consumer: { maxRetriesPerRequest: null, socketTimeout: 15_000 },
  /** A command line: report soon that Redis is away. */
  command: { maxRetriesPerRequest: 1, commandTimeout: 5_000, connectTimeout: 3_000 },
} as const satisfies Record<string, RedisOptions>;

export type RedisRole = keyof typeof roles;

/**
 * A connection that sends its commands of one turn of the event loop in one write: each write is a system call here and
 * another one in Redis. The commands stay separate, so each has its own answer or error.
 */
class TurnRedis extends Redis {
  override sendCommand(...args: Parameters<Redis['sendCommand']>): unknown {
    const { stream } = this;
    if (stream && stream.writableCorked === 0) {
      stream.cork();
      setImmediate(() => stream.uncork());
    }
    return super.sendCommand(...args);
  }
}

/** The connections of this process to one server. */
class Group {
  readonly connections = new Set<Redis>();
  readonly outage = new Outage();
  /** Connections that are about to be reopened. */
  readonly reopening = new WeakSet<Redis>();
  #reconnectedMs = Number.NEGATIVE_INFINITY;

  /**
   * Reconnects all connections, because the server behind the URL has changed. A connection that only reads would not
   * notice it by itself.
   */
  reconnect(): void {
    if (performance.now() - this.#reconnectedMs < RECONNECT_EVERY_MS) return;
    this.#reconnectedMs = performance.now();
    for (const redis of this.connections) {
      if (redis.status !== 'ready' || this.reopening.has(redis)) continue;
      // The status stays 'ready' until the socket has closed, which may take a while.
      this.reopening.add(redis);
      redis.once('close', () => this.reopening.delete(redis));
      redis.disconnect(true);
    }
  }
}

/** After a failover the connections of a process are renewed at most this often, in milliseconds. */
const RECONNECT_EVERY_MS = 500;
const groups = new Map<string, Group>();
const groupOfConnection = new WeakMap<Redis, Group>();

function groupOf(url: string): Group {
  const group = groups.get(url) ?? new Group();
  groups.set(url, group);
  return group;
}

/** The outage log of a connection and the others to the same server. */
export const outageOf = (redis: Redis): Outage | undefined => groupOfConnection.get(redis)?.outage;

/**
 * Opens a connection. It reconnects by itself until `disconnect()` or `quit()`, also when its server was demoted: an
 * error such as READONLY renews all connections of this process to the server.
 * @param url of a server, a socket, sentinels or a cluster, as the setting `REDIS_URL` accepts it
 * @param role what the connection is for
 * @param log receives two lines per outage: the cause, and the duration
 */
export function connectRedis(url: string, role: RedisRole, log: Log): Redis {
  const group = groupOf(url);
  const options: ServerOptions = {
    ...serverOptions(url),
    ...roles[role],
    retryStrategy,
    connectionName: `sluice-${role}`,
    reconnectOnError: (error) => {
      if (!isFailover(error)) return false;
      group.outage.begin(redis, error, log);
      group.reconnect();
      void awaitPrimary();
      return true;
    },
  };
  const redis = new TurnRedis(options);
  /** Whether the server behind the connection refused to be the primary, and no write has succeeded since. */
  let demoted = false;
  const awaitPrimary = async () => {
    if (demoted) return;
    demoted = true;
    while (demoted && redis.status !== 'end') {
      await delay(RECONNECT_EVERY_MS, undefined, { ref: false });
      if (redis.status !== 'ready') continue;
      await redis.set(names.probe, '1', 'PX', RECONNECT_EVERY_MS).then(
        () => {
          demoted = false;
        },
        (error: unknown) => {
          demoted = isFailover(error) || redis.status !== 'ready';
        },
      );
    }
    group.outage.end(redis, log);
  };
  // BullMQ opens further connections like this one.
  const duplicate = redis.duplicate.bind(redis);
  redis.duplicate = (override) => {
    const copy = duplicate(override);
    group.connections.add(copy);
    copy.on('end', () => group.connections.delete(copy));
    return copy;
  };
  groupOfConnection.set(redis, group);
  group.connections.add(redis);
  redis.on('error', (error: unknown) => group.outage.begin(redis, error, log));
  redis.on('ready', () => {
    if (!demoted) group.outage.end(redis, log);
  });
  redis.on('end', () => {
    group.connections.delete(redis);
    group.outage.forget(redis);
  });
  return redis;
}

/** A channel of a subscription. */
interface Channel {
  /** Those who wait for the first confirmation. */
  waiting: (() => void)[];
  retry: NodeJS.Timeout | undefined;
}

/** The channels of each connection that has some. */
const subscriptions = new WeakMap<Redis, Map<string, Channel>>();
/** A channel that Redis refuses, such as one that its user may not read, is tried again after this long, in milliseconds. */
const REFUSED_RETRY_MS = 5_000;
/** A subscription may be silent for long, so only a ping shows whether its connection is dead; in milliseconds. */
const PING_EVERY_MS = 5_000;

/**
 * Subscribes a connection of the role `subscriber` to a channel, and again each time it is reopened. Resolves when it is subscribed
 * for the first time.
 */
export function keepSubscribed(redis: Redis, name: string, log: Log): Promise<void> {
  return new Promise((resolve) => {
    const channels = subscriptions.get(redis) ?? openSubscription(redis, log);
    const channel = channels.get(name) ?? { waiting: [], retry: undefined };
    channel.waiting.push(resolve);
    channels.set(name, channel);
    if (redis.status === 'ready') subscribe(redis, name, channel, log);
  });
}

function openSubscription(redis: Redis, log: Log): Map<string, Channel> {
  const channels = new Map<string, Channel>();
  subscriptions.set(redis, channels);
  redis.on('ready', () => {
    for (const [name, channel] of channels) subscribe(redis, name, channel, log);
  });
  const pings = setInterval(() => {
    if (redis.status === 'ready') redis.ping().catch(() => reopen(redis));
  }, PING_EVERY_MS);
  redis.once('end', () => {
    clearInterval(pings);
    for (const { retry } of channels.values()) clearTimeout(retry);
  });
  return channels;
}

/** Reopens a connection. One that is not ready reconnects by itself, or was closed on purpose. */
function reopen(redis: Redis): void {
  if (redis.status === 'ready') redis.disconnect(true);
}

function subscribe(redis: Redis, name: string, channel: Channel, log: Log): void {
  clearTimeout(channel.retry);
  redis.subscribe(name).then(
    () => {
      for (const resolve of channel.waiting.splice(0)) resolve();
    },
    (err: unknown) => {
      const isRefused = err instanceof Error && err.name === 'ReplyError';
      log[isRefused ? 'warn' : 'debug']({ err, channel: name }, 'Could not subscribe');
      // After the reconnect, 'ready' subscribes again.
      if (!isRefused) reopen(redis);
      else if (redis.status === 'ready')
        channel.retry = setTimeout(() => {
          if (redis.status === 'ready') subscribe(redis, name, channel, log);
        }, REFUSED_RETRY_MS);
    },
  );
}

/** Resolves when the connection can take commands, at once if it can already. Rejects when `signal` aborts. */
export async function whenReady(redis: Redis, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  if (redis.status === 'ready') return;
  return new Promise((resolve, reject) => {
    const onReady = () => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    };
    const onAbort = () => {
      redis.off('ready', onReady);
      reject(signal?.reason);
    };
    redis.once('ready', onReady);
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}
