import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

/** The two ends of a connection through the proxy. */
interface Pair {
  client: Socket;
  server: Socket;
}

/**
 * A TCP proxy between the apps and Redis that makes the network fail: it delays data, resets connections, or forwards nothing
 * more on connections that stay open.
 */
export class FaultyProxy {
  /** Port of the server to which new connections go. */
  targetPort: number;
  /** Delay of data in each direction, in milliseconds. */
  latencyMs = 0;
  #server: Server;
  #pairs = new Set<Pair>();

  constructor(targetPort: number) {
    this.targetPort = targetPort;
    this.#server = createServer((client) => this.#accept(client));
  }

  /** Resolves to the port. */
  async start(): Promise<number> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    return (this.#server.address() as AddressInfo).port;
  }

  /** Resets all connections. */
  reset(): void {
    for (const { client, server } of this.#pairs) {
      client.resetAndDestroy();
      server.destroy();
    }
  }

  /** Forwards nothing more on the present connections, which stay open. New ones work. */
  hang(): void {
    for (const { client, server } of this.#pairs) {
      for (const socket of [client, server]) socket.removeAllListeners('data').resume();
    }
  }

  close(): void {
    this.#server.close();
    this.reset();
  }

  #accept(client: Socket): void {
    const server = connect(this.targetPort, '127.0.0.1');
    const pair = { client, server };
    this.#pairs.add(pair);
    this.#forward(client, server, pair);
    this.#forward(server, client, pair);
  }

  #forward(from: Socket, to: Socket, pair: Pair): void {
    /** Data that is delayed, in order: TCP never changes the order. */
    const delayed: Buffer[] = [];
    from.setNoDelay(true);
    from.on('data', (data: Buffer) => {
      if (this.latencyMs === 0 && delayed.length === 0) {
        to.write(data);
        return;
      }
      delayed.push(data);
      setTimeout(() => {
        const first = delayed.shift();
        if (first) to.write(first);
      }, this.latencyMs);
    });
    from.on('error', () => {});
    from.on('close', () => {
      to.destroy();
      this.#pairs.delete(pair);
    });
  }
}
