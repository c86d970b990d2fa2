import { setTimeout as delay } from 'node:timers/promises';
import type { Checker } from './checker.js';
import type { FaultRecord } from './faults.js';
import type { Fleet, Member } from './fleet.js';
import type { Random } from './random.js';
import type { Usage } from './usage.js';

/** Deadlines of requests in the two lanes, in milliseconds. */
export const DEADLINE_MS = { interactive: 5_000, bulk: 60_000 } as const;
/** A busy machine may answer this much after the deadline. */
const LATE_MS = 3_000;
/** How long a client waits after the deadline. */
const PATIENCE_MS = 25_000;
/** Requests that may be repeated are repeated for this long. */
export const RETRY_MS = 60_000;

/** What a client received; `broken` when the connection broke. */
export interface Received {
  status: number | 'broken';
  // Bodies of any route; what they contain is checked.
  // biome-ignore lint/suspicious/noExplicitAny: bodies of many routes
  body: any;
  text: string;
  sentMs: number;
  endMs: number;
  gateway: Member;
}

/** A request whose status is checked. */
interface WorkRequest {
  path: string;
  key: string;
  body: unknown;
  deadlineMs?: number;
  /** Whether the key exceeds its limits, so that 429 is right. */
  isLimited?: boolean;
}

/** Sends requests to the gateways, and checks what every answer must be. */
export class Client {
  /** Whether no fault is in progress, so that every request must be answered with 200. */
  quiet = false;
  faults: readonly FaultRecord[] = [];
  #fleet: Fleet;
  #checker: Checker;
  #usage: Usage;

  constructor(fleet: Fleet, checker: Checker, usage: Usage) {
    this.#fleet = fleet;
    this.#checker = checker;
    this.#usage = usage;
  }

  /** One of the gateways, at random. */
  gateway(random: Random): Member {
    return random.pick(this.#fleet.gateways);
  }

  /** Sends a request. Does not check the status. */
  async request(
    gateway: Member,
    path: string,
    key: string,
    init: RequestInit = {},
    deadlineMs: number = DEADLINE_MS.interactive,
  ): Promise<Received> {
    const sentMs = performance.now();
    const received = (status: Received['status'], text: string, isJson = false): Received => {
      let body: unknown;
      try {
        if (isJson) body = JSON.parse(text);
      } catch {
        this.#checker.violate('wrong-output', `${path} ${status} is not JSON: ${text.slice(0, 300)}`);
      }
      return { status, text, body, sentMs, endMs: performance.now(), gateway };
    };
    try {
      const response = await fetch(`${gateway.url}${path}`, {
        ...init,
        headers: { 'X-API-Key': key, ...init.headers },
        signal: AbortSignal.timeout(deadlineMs + PATIENCE_MS),
      });
      const isJson = /^application\/(problem\+)?json/.test(response.headers.get('content-type') ?? '');
      return received(response.status, await response.text(), isJson);
    } catch (error) {
      if (error instanceof Error && error.name === 'TimeoutError')
        this.#checker.violate(
          'no-answer',
          `${init.method ?? 'GET'} ${path} after ${deadlineMs + PATIENCE_MS} ms`,
        );
      return received('broken', '');
    }
  }

  /** Sends a request that uses a slot, and counts it for the usage of its key. While no fault is in progress, it must be accepted. */
  async post(
    gateway: Member,
    path: string,
    key: string,
    init: RequestInit,
    deadlineMs?: number,
  ): Promise<Received> {
    const wasQuiet = this.quiet;
    const received = await this.request(gateway, path, key, { method: 'POST', ...init }, deadlineMs);
    this.#usage.record(key, received.status);
    if (wasQuiet && isRefusal(received.status)) this.#failedInQuiet(path, received);
    return received;
  }

  /** Sends a request for an inference, and checks its status and its time. */
  async work(
    random: Random,
    { path, key, body, deadlineMs = DEADLINE_MS.interactive, isLimited = false }: WorkRequest,
  ): Promise<Received> {
    const { counts } = this.#checker;
    const wasQuiet = this.quiet;
    const received = await this.request(
      this.gateway(random),
      path,
      key,
      { method: 'POST', ...json(body) },
      deadlineMs,
    );
    this.#usage.record(key, received.status);
    const { status, sentMs, endMs, gateway } = received;
    counts.requests++;
    if (status === 200) counts.answers++;
    else if (status === 'broken') counts.broken++;
    else if (status === 408) counts.timedOut++;
    else if (status === 503 || status === 429) counts.refused++;
    else counts.failed++;
    const details = `${path} ${status} ${received.text.slice(0, 300)}`;
    const allowed =
      [200, 408, 503, 'broken'].includes(status) ||
      // The model process was killed twice while it ran this text; /embed reports that as 424.
      received.body?.code === 'analysis_failed' ||
      status === 424 ||
      // /embed answers with it for overload, too.
      (status === 429 && (isLimited || path === '/embed'));
    if (!allowed)
      this.#checker.violate('unexpected-status', `${details}\n${gateway.app.output.slice(-3_000)}`);
    if (wasQuiet && status !== 200 && !(isLimited && status === 429)) this.#failedInQuiet(path, received);
    const pausedMs = this.#pausedMs(received);
    if (status !== 'broken' && endMs - sentMs > deadlineMs + LATE_MS + pausedMs)
      this.#checker.violate(
        'late-answer',
        `${details} after ${Math.round(endMs - sentMs)} ms (paused for ${Math.round(pausedMs)} ms)`,
      );
    return received;
  }

  /** Repeats a request that may be repeated until it has a final answer. Resolves to undefined if it is refused for {@link RETRY_MS}. */
  async repeat(what: string, send: () => Promise<Received>): Promise<Received | undefined> {
    const untilMs = performance.now() + RETRY_MS;
    while (performance.now() < untilMs) {
      const received = await send();
      if (!isRefusal(received.status)) return received;
      await delay(200);
    }
    this.#checker.violate('not-submitted', what);
    return undefined;
  }

  /** Sends a request that uses no slot, and repeats it until it has a final answer. */
  requestWithRetries(
    random: Random,
    path: string,
    key: string,
    init: RequestInit = {},
  ): Promise<Received | undefined> {
    const what = `${init.method ?? 'GET'} ${path}`;
    return this.repeat(what, async () => {
      const wasQuiet = this.quiet;
      const received = await this.request(this.gateway(random), path, key, init);
      if (wasQuiet && isRefusal(received.status)) this.#failedInQuiet(what, received);
      return received;
    });
  }

  /** A request that was sent in quiet has failed. */
  #failedInQuiet(what: string, { status, text, gateway, sentMs }: Received): void {
    const last = this.faults.at(-1);
    // The next fault began before its answer.
    if (last && last.startMs > sentMs) return;
    this.#checker.violate(
      'failed-in-quiet',
      `${what}: ${status} ${text.slice(0, 300)}, answered by ${gateway.name}, ${last ? `${Math.round(performance.now() - (last.endMs ?? last.startMs))} ms after "${last.kind}"` : 'before any fault'}`,
    );
  }

  /** How long the gateway was paused while it had this request. */
  #pausedMs({ gateway, sentMs, endMs }: Received): number {
    return this.faults
      .filter(({ paused }) => paused === gateway)
      .reduce(
        (sum, fault) =>
          sum + Math.max(0, Math.min(endMs, fault.endMs ?? endMs) - Math.max(sentMs, fault.startMs)),
        0,
      );
  }
}

/** Whether a request was not accepted, or its connection broke. */
export const isRefusal = (status: Received['status']) =>
  status === 'broken' || status === 503 || status === 429;

/** A body of JSON with its header. */
export const json = (body: unknown, headers: Record<string, string> = {}): RequestInit => ({
  headers: { 'Content-Type': 'application/json', ...headers },
  body: JSON.stringify(body),
});
