import { createConnection } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { connect as connectTls } from 'node:tls';
import { AbstractConnector, Redis, type RedisOptions } from 'ioredis';
import * as z from 'zod';
import { PREFIX } from './names.js';
import type { Address, SeveralServers } from './url.js';

/** A node or sentinel that has not answered after this long is skipped, in milliseconds. */
export const NODE_TIMEOUT_MS = 1_000;
/** Pause between attempts to find a node, in milliseconds; it grows with each attempt. */
const RETRY_MS = 100;
const MAX_RETRY_MS = 1_000;
/** A connection that is closed has this long to end, in milliseconds. */
const DISCONNECT_MS = 2_000;

/** `replyMapping` would change the types of replies. */
export type ServerOptions = Omit<RedisOptions, 'replyMapping'>;

/** The pause before an attempt, in milliseconds. */
export const pauseBefore = (attempt: number) => Math.min(RETRY_MS * attempt, MAX_RETRY_MS);

const slotsSchema = z.array(
  z.tuple([z.int(), z.int()]).rest(z.tuple([z.string().nullable(), z.int()]).rest(z.unknown())),
);

/**
 * Connects to the node of a cluster that has the keys of Sluice, all of which are in one hash slot. So a plain connection is
 * enough. It looks for the node anew each time it connects, so it follows a failover or a resharding.
 */
export function clusterConnector(
  { addresses, tls }: SeveralServers,
  login: ServerOptions,
): NonNullable<RedisOptions['Connector']> {
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
      // It would wait for a node that loads its data; CLUSTER INFO of such a node fails, so it is skipped.
      enableReadyCheck: false,
      retryStrategy: () => null,
    });
    let failure: Error | undefined;
    node.on('error', (error: Error) => {
      failure = error;
    });
    try {
      // The error of the connection says more, such as that the password is wrong.
      await node.connect().catch((error: unknown) => Promise.reject(failure ?? error));
      // A node that was separated from the others still believes that it has its slots.
      if (!/cluster_state:ok/.test(String(await node.call('CLUSTER', 'INFO'))))
        throw new Error(
          `CLUSTERDOWN The node ${host}:${port} is not part of a working cluster; see CLUSTER INFO`,
        );
      const slot = Number(await node.call('CLUSTER', 'KEYSLOT', PREFIX));
      const ranges = slotsSchema.parse(await node.call('CLUSTER', 'SLOTS'));
      // A node does not always know its own address.
      const addressOf = ([name, at]: [string | null, number, ...unknown[]]) => ({
        host: name || host,
        port: at,
      });
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
        await delay(pauseBefore(attempt));
      }
    }
  };
}

const unique = (addresses: readonly Address[]) => [
  ...new Map(addresses.map((address) => [`${address.host} ${address.port}`, address])).values(),
];
