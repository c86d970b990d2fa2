import { createConnection } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { connect as connectTls } from 'node:tls';
import { AbstractConnector, Redis, type RedisOptions } from 'ioredis';
import { z } from 'zod';
import { PREFIX } from './names.js';

const DEFAULT_PORT = 6379;
const SENTINEL_PORT = 26_379;
/** A node of a cluster that has not answered after this long is skipped, in milliseconds. */
const NODE_TIMEOUT_MS = 1_000;
/** Pause between attempts to find the primary (Sentinel) or the node (Cluster), in milliseconds; it grows with each attempt. */
const RETRY_MS = 100;
const MAX_RETRY_MS = 1_000;
/** A connection that is closed has this long to end, in milliseconds. */
const DISCONNECT_MS = 2_000;

/** `replyMapping` would change the types of replies. */
export type ServerOptions = Omit<RedisOptions, 'replyMapping'>;

interface Address {
  host: string;
  port: number;
}

/** A parsed URL with several addresses. */
interface SeveralServers {
  kind: 'sentinel' | 'cluster';
  addresses: Address[];
  username: string;
  password: string;
  tls: boolean;
  /** Name of the primary in the configuration of the sentinels. */
  name: string;
  db: number;
  sentinelPassword: string;
}

/** `redis+sentinel://` and `redis+cluster://`, with `rediss` for TLS. */
const SEVERAL = /^(rediss?)\+(sentinel|cluster):\/\/(?:(.*)@)?([^/?#]*)([^?#]*)(?:\?(.*))?$/s;

/** Whether a Redis URL names sentinels or the nodes of a cluster. */
export const namesSeveralServers = (url: string) => SEVERAL.test(url);

/** A part of a URL without its percent-encoding. @throws Error with what is wrong */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new Error('an invalid % in the user name, password or name; write %25 for %');
  }
}

/**
 * Parses the URL of a group of servers:
 * `redis+sentinel://[user:password@]host[:26379][,host…]/name[/database][?sentinel_password=…]` or
 * `redis+cluster://[user:password@]host[:6379][,host…]`.
 * @throws Error with what is wrong
 */
export function parseSeveralServers(url: string): SeveralServers {
  const [, scheme, kind, login = '', hosts = '', path = '', query = ''] = SEVERAL.exec(url) ?? [];
  if (kind !== 'sentinel' && kind !== 'cluster') throw new Error('not a URL of sentinels or of a cluster');
  const isSentinel = kind === 'sentinel';
  const addresses = hosts.split(',').map((host) => {
    if (!URL.canParse(`redis://${host}`) || host === '')
      throw new Error(
        `the hosts are not valid; write ${isSentinel ? 'host-1:26379,host-2:26379' : 'host-1:6379,host-2:6379'}`,
      );
    const { hostname, port } = new URL(`redis://${host}`);
    return {
      host: hostname.replace(/^\[|\]$/g, ''),
      port: Number(port || (isSentinel ? SENTINEL_PORT : DEFAULT_PORT)),
    };
  });
  const [, name = '', database = '', ...rest] = path.split('/');
  if (isSentinel && (name === '' || rest.length > 0 || !/^\d*$/.test(database)))
    throw new Error(
      'the path must be the name that the sentinels use, and optionally a database, such as /mymaster or /mymaster/0',
    );
  if (!isSentinel && !['', '/', '/0'].includes(path))
    throw new Error('a cluster has only database 0; remove the path');
  const options = new URLSearchParams(query);
  const known = isSentinel ? ['sentinel_password'] : [];
  if ([...options.keys()].some((option) => !known.includes(option)))
    throw new Error(
      isSentinel
        ? 'the only option after "?" is sentinel_password=<password>'
        : 'options after "?" are not supported for a cluster; remove them',
    );
  const [user = '', ...password] = login.split(':');
  return {
    kind,
    addresses,
    username: decoded(user),
    password: decoded(password.join(':')),
    tls: scheme === 'rediss',
    name: decoded(name),
    db: Number(database),
    sentinelPassword: options.get('sentinel_password') ?? '',
  };
}

const slotsSchema = z.array(
  z.tuple([z.int(), z.int()]).rest(z.tuple([z.string(), z.int()]).rest(z.unknown())),
);

/**
 * Connects to the node of a cluster that has the keys of Sluice, all of which are in one hash slot. So a plain connection is
 * enough. It looks for the node anew each time it connects, so it follows a failover or a resharding.
 */
function clusterConnector({ addresses, tls }: SeveralServers, login: ServerOptions) {
  /** Known nodes, the latest owner first. A connection and its duplicates share this list. */
  let nodes = addresses;

  /** The node that has the hash slot, according to another node. */
  async function ownerSeenBy({ host, port }: Address): Promise<Address> {
    const node = new Redis({
      ...login,
      host,
      port,
      lazyConnect: true,
      connectTimeout: NODE_TIMEOUT_MS,
      commandTimeout: NODE_TIMEOUT_MS,
      maxRetriesPerRequest: 0,
      retryStrategy: () => null,
    });
    node.on('error', () => {});
    try {
      await node.connect();
      const slot = Number(await node.call('CLUSTER', 'KEYSLOT', PREFIX));
      const ranges = slotsSchema.parse(await node.call('CLUSTER', 'SLOTS'));
      // A node does not always know its own address.
      const addressOf = ([name, at]: [string, number, ...unknown[]]) => ({ host: name || host, port: at });
      const all = ranges.flatMap(([, , ...members]) => members.map(addressOf));
      const [owner] = ranges.find(([first, last]) => first <= slot && slot <= last)?.slice(2) ?? [];
      if (!Array.isArray(owner))
        throw new Error('CLUSTERDOWN No node serves the hash slot of {sluice}; check CLUSTER INFO');
      const found = addressOf(owner);
      nodes = unique([found, ...all, ...addresses]);
      return found;
    } finally {
      node.disconnect();
    }
  }

  /** The node that has the hash slot, according to the first node that answers. */
  async function owner(): Promise<Address> {
    let failure: unknown;
    for (const node of nodes) {
      try {
        return await ownerSeenBy(node);
      } catch (error) {
        failure = error;
      }
    }
    throw failure;
  }

  return class ClusterConnector extends AbstractConnector {
    constructor() {
      super(DISCONNECT_MS);
    }

    /** ioredis does not try again if this rejects, so it tries until a node is found or the connection is closed. */
    override async connect(emitError: (event: string, error: Error) => void) {
      this.connecting = true;
      for (let attempt = 1; ; attempt++) {
        const found = await owner().catch((error: unknown) => {
          emitError('error', error instanceof Error ? error : new Error(String(error)));
        });
        if (!this.connecting) throw new Error('Connection is closed.');
        if (found) {
          this.stream = tls ? connectTls({ ...found, ...login.tls }) : createConnection(found);
          this.stream.once('error', (error: Error) => {
            this.firstError = error;
          });
          return this.stream;
        }
        await delay(Math.min(RETRY_MS * attempt, MAX_RETRY_MS));
      }
    }
  };
}

const unique = (addresses: readonly Address[]) => [
  ...new Map(addresses.map((address) => [`${address.host} ${address.port}`, address])).values(),
];

function severalServers(url: string): ServerOptions {
  const servers = parseSeveralServers(url);
  const { kind, addresses, username, password, tls, name, db, sentinelPassword } = servers;
  const login: ServerOptions = {
    ...(username === '' ? {} : { username }),
    ...(password === '' ? {} : { password }),
    ...(tls ? { tls: {} } : {}),
  };
  if (kind === 'cluster') return { ...login, Connector: clusterConnector(servers, login) };
  return {
    ...login,
    db,
    name,
    sentinels: addresses,
    sentinelRetryStrategy: (times) => Math.min(RETRY_MS * times, MAX_RETRY_MS),
    ...(sentinelPassword === '' ? {} : { sentinelPassword }),
    ...(tls ? { enableTLSForSentinelMode: true } : {}),
  };
}

/** The options of ioredis for a URL; it cannot parse those of sockets, sentinels and clusters itself. */
export function serverOptions(url: string): ServerOptions {
  if (namesSeveralServers(url)) return severalServers(url);
  const { protocol, hostname, port, pathname, username, password, searchParams } = new URL(url);
  const isSocket = protocol === 'unix:';
  const family = searchParams.get('family');
  return {
    ...(isSocket
      ? { path: decodeURIComponent(pathname) }
      : { host: hostname.replace(/^\[|\]$/g, ''), port: Number(port || DEFAULT_PORT) }),
    ...(username || password
      ? { username: decodeURIComponent(username), password: decodeURIComponent(password) }
      : {}),
    db: Number(isSocket ? searchParams.get('db') : pathname.slice(1)),
    ...(family === null ? {} : { family: Number(family) }),
    ...(protocol === 'rediss:' ? { tls: {} } : {}),
  };
}
