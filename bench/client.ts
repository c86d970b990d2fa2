import { createConnection, type Socket } from 'node:net';
import type { Endpoint } from './load.js';

/** Status and latency of a response, in milliseconds. */
export interface Answered {
  status: number;
  ms: number;
}

/**
 * Posts JSON over keep-alive connections, with one request at a time on each. It uses plain sockets and a few lines of
 * HTTP, because it shares the machine with the server and should use little processor time.
 */
export class Client {
  #host: string;
  #port: number;
  #head: string;
  #idle: Socket[] = [];
  #all = new Set<Socket>();

  /** @param path of the route */
  constructor({ url, key }: Endpoint, path = '/predict') {
    const { hostname, port } = new URL(url);
    this.#host = hostname;
    this.#port = Number(port);
    this.#head = `POST ${path} HTTP/1.1\r\nHost: ${hostname}\r\nX-API-Key: ${key}\r\nContent-Type: application/json\r\n`;
  }

  /** @throws Error when the connection breaks before the answer */
  post(fields: object): Promise<Answered> {
    const body = JSON.stringify(fields);
    const sentMs = performance.now();
    return new Promise((resolve, reject) => {
      const socket = this.#idle.pop() ?? this.#connect();
      let answer = '';
      const onData = (part: string) => {
        answer += part;
        const end = answer.indexOf('\r\n\r\n');
        if (end < 0) return;
        const length = Number(/\r\ncontent-length: (\d+)/i.exec(answer)?.[1] ?? 0);
        if (Buffer.byteLength(answer) < end + 4 + length) return;
        socket.off('data', onData).off('close', broken);
        this.#idle.push(socket);
        resolve({ status: Number(answer.slice(9, 12)), ms: performance.now() - sentMs });
      };
      const broken = () => reject(new Error('The connection broke'));
      socket.on('data', onData).once('close', broken);
      socket.write(`${this.#head}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
    });
  }

  close(): void {
    for (const socket of this.#all) socket.destroy();
  }

  #connect(): Socket {
    const socket = createConnection(this.#port, this.#host).setNoDelay().setEncoding('utf8');
    // A request in flight is rejected by the `close` event.
    socket.on('error', () => {});
    socket.once('close', () => {
      this.#all.delete(socket);
      this.#idle = this.#idle.filter((idle) => idle !== socket);
    });
    this.#all.add(socket);
    return socket;
  }
}
