import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { Webhook } from 'standardwebhooks';
import type { Checker } from './checker.js';
import { RETRY_MS } from './client.js';

const SECRET = `whsec_${Buffer.from('a secret of twenty-four!').toString('base64')}`;

/** Receives the deliveries of webhooks, and checks that each end of a job is delivered under one id. */
export class Webhooks {
  readonly secret = SECRET;
  #checker: Checker;
  #server: Server;
  /** The ids of the events of each job or batch. */
  #deliveries = new Map<string, Set<string>>();
  /** Ids of jobs and batches with a webhook, of all seeds: a delivery can be repeated late. */
  #known = new Set<string>();

  constructor(checker: Checker) {
    this.#checker = checker;
    this.#server = createServer(async (request, response) => {
      let body = '';
      for await (const part of request) body += part;
      this.#deliver(request.headers as Record<string, string>, body);
      response.writeHead(200).end();
    });
  }

  /** Resolves to the URL to which deliveries go. */
  async listen(): Promise<string> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/`;
  }

  /**
   * Checks the deliveries until now.
   * @param wanted ids of the jobs and batches whose end must be delivered
   * @param maybe ids of those that may exist
   */
  async check(wanted: readonly string[], maybe: readonly string[]): Promise<void> {
    const untilMs = performance.now() + RETRY_MS / 2;
    const waiting = () => wanted.filter((id) => !this.#deliveries.has(id));
    while (waiting().length > 0 && performance.now() < untilMs) await delay(100);
    for (const id of waiting()) this.#checker.violate('webhook-missing', id);
    for (const id of [...wanted, ...maybe]) this.#known.add(id);
    for (const id of this.#deliveries.keys()) {
      if (this.#known.has(id)) continue;
      this.#checker.violate('webhook-wrong', `a delivery for ${id}, which has no webhook`);
      // Report it once.
      this.#deliveries.delete(id);
    }
  }

  close(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  #deliver(headers: Record<string, string>, body: string): void {
    this.#checker.counts.deliveries++;
    try {
      const event = new Webhook(SECRET).verify(body, headers) as { id: string; data: { id: string } };
      if (event.id !== headers['webhook-id']) throw new Error('The ids differ');
      const jobId = event.data.id;
      const ids = this.#deliveries.get(jobId) ?? new Set();
      this.#deliveries.set(jobId, ids.add(event.id));
      if (ids.size > 1) throw new Error('The event has two ids');
    } catch (error) {
      this.#checker.violate('webhook-wrong', `${error instanceof Error ? error.message : error}: ${body}`);
    }
  }
}
