import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { keyIdOf } from '@sluice/shared';
import { Webhook } from 'standardwebhooks';
import { root } from '../harness.js';
import type { Checker, LimitedRequest } from './checker.js';
import type { FaultRecord } from './faults.js';
import { ADMIN_TOKEN, type Fleet, type Member } from './fleet.js';
import { Random } from './random.js';

const SECRET = `whsec_${Buffer.from('a secret of twenty-four!').toString('base64')}`;
/** Maximum difference of a score or of a component of a vector. */
const TOLERANCE = 1e-4;
const DEADLINE_MS = 5_000;
const BULK_DEADLINE_MS = 60_000;
/** A busy machine may answer this much after the deadline. */
const LATE_MS = 3_000;
/** How long a client waits after the deadline. */
const PATIENCE_MS = 25_000;
/** After this many rounds of erasing, jobs that are still there cannot be erased. */
const ERASE_ROUNDS = 10;
/** Reads and submissions are repeated for this long. */
const RETRY_MS = 60_000;

/** Windows of the two limited keys. */
const LIMITS = {
  requests: { limit: 20, windowMs: 3_000 },
  texts: { limit: 60, windowMs: 3_000 },
} as const;
type Limited = keyof typeof LIMITS;

const sentences = readFileSync(join(root, 'tests/data/sst2-100.tsv'), 'utf8')
  .trim()
  .split('\n')
  .slice(1, 61)
  .map((row) => row.split('\t')[0] ?? '');

/** What a client received; `broken` when the connection broke. */
interface Received {
  status: number | 'broken';
  // Bodies of any route; what they contain is checked.
  // biome-ignore lint/suspicious/noExplicitAny: bodies of many routes
  body: any;
  text: string;
  sentMs: number;
  endMs: number;
  gateway: Member;
}

/** A job that was accepted. */
interface AcceptedJob {
  id: string;
  texts: readonly string[];
  webhook: boolean;
  canceled: boolean;
  /** The results as they were first read. */
  read?: string;
  /** Ended as it should; undefined while it is followed. */
  ended?: boolean;
}

/** A batch of the OpenAI family that was created. */
interface CreatedBatch {
  id: string;
  texts: readonly string[];
}

/**
 * The clients: interactive requests, requests with many inputs, jobs with webhooks, batches of the OpenAI family, and two keys that
 * use more than their limits.
 */
export class Traffic {
  /** Whether no fault is in progress, so that every request must be answered with 200. */
  quiet = false;
  #fleet: Fleet;
  #checker: Checker;
  #random: Random;
  #faults: () => readonly FaultRecord[];
  #running = false;
  #loops: Promise<void>[] = [];
  #following = new Set<Promise<void>>();
  #scores = new Map<string, number>();
  #vectors = new Map<string, number[]>();
  #jobs = new Map<string, AcceptedJob>();
  #batches: CreatedBatch[] = [];
  #limited: Record<Limited, LimitedRequest[]> = { requests: [], texts: [] };
  #deliveries = new Map<string, Set<string>>();
  #receiver: Server;
  #hook = '';
  #keys: { main: string; jobs: string } & Record<Limited, string> = {
    main: '',
    jobs: '',
    requests: '',
    texts: '',
  };
  /** Requests of each key that used a slot, and those that may have. */
  #used = new Map<string, { certain: number; maybe: number }>();
  #submitted = 0;

  constructor(fleet: Fleet, checker: Checker) {
    this.#fleet = fleet;
    this.#checker = checker;
    this.#faults = () => [];
    this.#random = new Random(0);
    this.#receiver = createServer(async (request, response) => {
      let body = '';
      for await (const part of request) body += part;
      this.#deliver(request.headers as Record<string, string>, body);
      response.writeHead(200).end();
    });
  }

  /** Creates the keys, and asks for the answer of each text alone. */
  async prepare(): Promise<void> {
    this.#receiver.listen(0, '127.0.0.1');
    await once(this.#receiver, 'listening');
    this.#hook = `http://127.0.0.1:${(this.#receiver.address() as AddressInfo).port}/`;
    const high = [{ limit: 1_000_000, windowSeconds: 60 }];
    const limitOf = (unit: Limited) => [
      { limit: LIMITS[unit].limit, windowSeconds: LIMITS[unit].windowMs / 1_000, unit },
    ];
    this.#keys = {
      main: await this.#fleet.key({ limits: high }),
      jobs: await this.#fleet.key({ limits: high, webhookUrl: this.#hook }),
      requests: await this.#fleet.key({ limits: limitOf('requests') }),
      texts: await this.#fleet.key({ limits: limitOf('texts') }),
    };
    await this.#fleet.setWebhookSecret(keyIdOf(this.#keys.jobs) ?? '', SECRET);
    for (const text of sentences) {
      const predicted = await this.#post(this.#gateway(0), '/predict', this.#keys.main, { text });
      this.#scores.set(text, signed(predicted.body));
      const embedded = await this.#post(this.#gateway(0), '/embed', this.#keys.main, { inputs: [text] });
      this.#vectors.set(text, embedded.body[0]);
      for (const { status } of [predicted, embedded]) {
        if (status !== 200) throw new Error(`Preparation failed: a request with one text got ${status}`);
        this.#use(this.#keys.main, status);
      }
    }
    // Otherwise a wrong answer could not be told from a right one.
    const different = new Set([...this.#scores.values()].map((score) => Math.round(score / (2 * TOLERANCE))));
    if (different.size < sentences.length / 2) throw new Error('The answers to the texts are too similar');
  }

  /** Starts the clients of a seed. */
  start(random: Random, faults: () => readonly FaultRecord[]): void {
    this.#random = random;
    this.#faults = faults;
    this.#running = true;
    const loop = (client: (random: Random) => Promise<void>) => {
      const own = random.fork();
      const run = async () => {
        while (this.#running) await client(own);
      };
      this.#loops.push(run());
    };
    loop((own) => this.#predict(own));
    loop((own) => this.#embed(own));
    for (let i = 0; i < 2; i++) loop((own) => this.#submit(own));
    loop((own) => this.#batch(own));
    loop((own) => this.#burst(own, 'requests'));
    loop((own) => this.#burst(own, 'texts'));
  }

  /** Ends the clients, and checks everything that they have been promised. */
  async finish(): Promise<void> {
    this.#running = false;
    await Promise.all(this.#loops.splice(0));
    await Promise.all(this.#following);
    await this.#checkBatches();
    await this.#checkWebhooks();
    await this.#checkJobs();
    for (const unit of ['requests', 'texts'] as const) {
      this.#checker.checkWindow(unit, LIMITS[unit], this.#limited[unit], this.#faults());
      this.#limited[unit] = [];
    }
    await this.#checkUsage();
    this.#jobs.clear();
    this.#deliveries.clear();
  }

  close(): void {
    this.#receiver.closeAllConnections();
    this.#receiver.close();
  }

  #gateway(number: number): Member {
    const { gateways } = this.#fleet;
    const gateway = gateways[number % gateways.length];
    if (gateway === undefined) throw new Error('There is no gateway');
    return gateway;
  }

  async #request(
    gateway: Member,
    path: string,
    key: string,
    init: RequestInit,
    withinMs = DEADLINE_MS,
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
        signal: AbortSignal.timeout(withinMs + PATIENCE_MS),
      });
      const isJson = /^application\/(problem\+)?json/.test(response.headers.get('content-type') ?? '');
      return received(response.status, await response.text(), isJson);
    } catch (error) {
      if (error instanceof Error && error.name === 'TimeoutError')
        this.#checker.violate(
          'no-answer',
          `${init.method ?? 'GET'} ${path} after ${withinMs + PATIENCE_MS} ms`,
        );
      return received('broken', '');
    }
  }

  #post(
    gateway: Member,
    path: string,
    key: string,
    body: unknown,
    headers: Record<string, string> = {},
    withinMs?: number,
  ) {
    const init = {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...headers },
      body: JSON.stringify(body),
    };
    return this.#request(gateway, path, key, init, withinMs);
  }

  /** Sends a work request, counts it, and checks its status. Returns it if it was answered with 200. */
  async #work(
    random: Random,
    path: string,
    key: string,
    body: unknown,
    cost: number,
    withinMs = DEADLINE_MS,
  ): Promise<Received | undefined> {
    const { counts } = this.#checker;
    const wasQuiet = this.quiet;
    const received = await this.#post(this.#gateway(random.int(0, 1)), path, key, body, {}, withinMs);
    const { status, sentMs, endMs, gateway } = received;
    counts.requests++;
    const isLimited = key === this.#keys.requests || key === this.#keys.texts;
    const code = received.body?.code;
    const details = `${path} ${status} ${received.text.slice(0, 300)}`;
    const allowed =
      [200, 408, 503, 'broken'].includes(status) ||
      (isLimited && status === 429) ||
      code === 'analysis_failed' ||
      status === 424 ||
      // This family has no 503 for overload.
      (path === '/embed' && status === 429);
    if (!allowed)
      this.#checker.violate('unexpected-status', `${details}\n${gateway.app.output.slice(-3_000)}`);
    if (wasQuiet && status !== 200 && !(isLimited && status === 429))
      this.#checker.violate('failed-in-quiet', `${details}, sent by ${gateway.name}`);
    const pausedMs = this.#faults()
      .filter(({ paused }) => paused === gateway)
      .reduce(
        (sum, fault) =>
          sum + Math.max(0, Math.min(endMs, fault.endMs ?? endMs) - Math.max(sentMs, fault.startMs)),
        0,
      );
    if (status !== 'broken' && endMs - sentMs > withinMs + LATE_MS + pausedMs)
      this.#checker.violate(
        'late-answer',
        `${details} after ${Math.round(endMs - sentMs)} ms (paused for ${Math.round(pausedMs)} ms)`,
      );
    if (status === 200) counts.answers++;
    else if (status === 'broken') counts.broken++;
    else if (status === 408) counts.timedOut++;
    else if (status === 503 || status === 429) counts.refused++;
    else counts.failed++;
    this.#use(key, status);
    if (isLimited) {
      const unit = key === this.#keys.requests ? 'requests' : 'texts';
      // Of /embed, a 429 can also mean that the server is overloaded, which uses no slot.
      const isRefused = status === 429 && /rate limit/i.test(received.text);
      const isFree = status === 503 || (status === 429 && !isRefused);
      const outcome = isRefused ? 'refused' : isFree ? 'free' : status === 'broken' ? 'maybe' : 'taken';
      this.#limited[unit].push({ sentMs, endMs, cost: unit === 'requests' ? 1 : cost, outcome });
    }
    return status === 200 ? received : undefined;
  }

  #use(key: string, status: Received['status']): void {
    const used = this.#used.get(key) ?? { certain: 0, maybe: 0 };
    this.#used.set(key, used);
    if (status === 'broken') used.maybe++;
    else if (status !== 503 && status !== 429) used.certain++;
  }

  /** Sends a request without waiting for the answer to the one before, so that a paused gateway holds up no other. */
  async #predict(random: Random): Promise<void> {
    this.#follow(this.#predictOne(random.fork()));
    await delay(random.int(80, 200));
  }

  async #predictOne(random: Random): Promise<void> {
    const text = random.pick(sentences);
    const received = await this.#work(random, '/predict', this.#keys.main, { text }, 1);
    if (received === undefined) return;
    this.#checker.answered.push({ sentMs: received.sentMs, endMs: received.endMs });
    this.#checkScore(text, signed(received.body), 'POST /predict');
  }

  async #embed(random: Random): Promise<void> {
    // More than 128 inputs use the bulk lane.
    const isLarge = random.chance(0.1);
    const count = isLarge ? random.int(130, 160) : random.int(2, 16);
    await this.#embedMany(random, this.#keys.main, count, isLarge ? BULK_DEADLINE_MS : DEADLINE_MS);
    await delay(random.int(100, 500));
  }

  async #embedMany(random: Random, key: string, count: number, withinMs = DEADLINE_MS): Promise<boolean> {
    const texts = Array.from({ length: count }, () => random.pick(sentences));
    const received = await this.#work(random, '/embed', key, { inputs: texts }, count, withinMs);
    if (received === undefined) return false;
    if (received.body.length !== count)
      this.#checker.violate('wrong-output', `${received.body.length} vectors for ${count} inputs`);
    for (const [i, text] of texts.entries()) this.#checkVector(text, received.body[i], 'POST /embed');
    return true;
  }

  /** Requests as fast as possible for a while, and then none for a while, so that windows fill at any time. */
  async #burst(random: Random, unit: Limited): Promise<void> {
    const untilMs = performance.now() + random.int(300, 2_500);
    const client = async (own: Random) => {
      while (performance.now() < untilMs) {
        if (unit === 'texts') await this.#embedMany(own, this.#keys.texts, own.int(1, 12));
        else await this.#work(own, '/predict', this.#keys.requests, { text: own.pick(sentences) }, 1);
        await delay(30);
      }
    };
    await Promise.all([client(random.fork()), client(random.fork()), client(random.fork())]);
    await delay(random.int(0, 2_500));
  }

  /** Repeats a request that may be repeated until it has a final answer. */
  async #repeat(what: string, send: () => Promise<Received>): Promise<Received | undefined> {
    const untilMs = performance.now() + RETRY_MS;
    while (performance.now() < untilMs) {
      const wasQuiet = this.quiet;
      const received = await send();
      if (received.status !== 'broken' && received.status !== 503 && received.status !== 429) return received;
      if (wasQuiet) this.#checker.violate('failed-in-quiet', `${what}: ${received.status} ${received.text}`);
      await delay(200);
    }
    this.#checker.violate('not-submitted', what);
    return undefined;
  }

  async #submit(random: Random): Promise<void> {
    const texts = Array.from({ length: random.int(5, 200) }, () => random.pick(sentences));
    const webhook = random.chance(0.4);
    const cancelAfterMs = random.chance(0.15) ? random.int(0, 2_000) : undefined;
    // A repeated submission gives the same job.
    const headers = { 'Idempotency-Key': `${this.#checker.seed}-${++this.#submitted}` };
    const body = { texts, ...(webhook ? { webhook: { url: this.#hook } } : {}) };
    const received = await this.#repeat('a job', async () => {
      const sent = await this.#post(
        this.#gateway(random.int(0, 1)),
        '/analyze_batch',
        this.#keys.jobs,
        body,
        headers,
      );
      this.#use(this.#keys.jobs, sent.status);
      return sent;
    });
    if (received === undefined) return;
    if (received.status !== 202) {
      this.#checker.violate(
        'unexpected-status',
        `POST /analyze_batch ${received.status} ${received.text.slice(0, 300)}\n${received.gateway.app.output.slice(-3_000)}`,
      );
      return;
    }
    const job: AcceptedJob = { id: received.body.job_id, texts, webhook, canceled: false };
    this.#checker.counts.jobs++;
    this.#jobs.set(job.id, job);
    this.#follow(this.#end(job, random.fork(), cancelAfterMs));
    await delay(random.int(300, 1_500));
  }

  #follow(following: Promise<void>): void {
    const followed = following.catch((error: unknown) =>
      this.#checker.violate('wrong-output', `an answer cannot be read: ${error}`),
    );
    this.#following.add(followed);
    void followed.finally(() => this.#following.delete(followed));
  }

  #get(random: Random, path: string): Promise<Received | undefined> {
    return this.#repeat(`GET ${path}`, () =>
      this.#request(this.#gateway(random.int(0, 1)), path, this.#keys.jobs, {}),
    );
  }

  /** Follows a job to its end, and reads its results. */
  async #end(job: AcceptedJob, random: Random, cancelAfterMs: number | undefined): Promise<void> {
    if (cancelAfterMs !== undefined) {
      await delay(cancelAfterMs);
      const canceled = await this.#repeat('a cancellation', () =>
        this.#request(this.#gateway(random.int(0, 1)), `/jobs/${job.id}/cancel`, this.#keys.jobs, {
          method: 'POST',
        }),
      );
      if (canceled?.status !== 200)
        this.#checker.violate('job-lost', `cancel of ${job.id}: ${canceled?.status}`);
      job.canceled = canceled?.body?.status === 'canceled';
    }
    const untilMs = performance.now() + 2 * RETRY_MS;
    for (;;) {
      const received = await this.#get(random, `/jobs/${job.id}`);
      if (received?.status !== 200) {
        this.#checker.violate('job-lost', `${job.id}: ${received?.status} ${received?.text}`);
        return;
      }
      const { status, total, completed, failed } = received.body;
      if (['completed', 'failed', 'canceled'].includes(status)) {
        job.ended = true;
        if (status === 'failed' || (status === 'canceled') !== job.canceled)
          this.#checker.violate('job-not-completed', `${job.id}: ${received.text}`);
        if (status === 'completed' && (total !== job.texts.length || completed !== total || failed !== 0))
          this.#checker.violate(
            failed > 0 && completed + failed === total ? 'item-error' : 'job-counts',
            received.text,
          );
        break;
      }
      if (performance.now() > untilMs) {
        this.#checker.violate('job-not-ended', received.text);
        return;
      }
      await delay(random.int(100, 400));
    }
    job.read = await this.#readResults(random, job);
  }

  async #readResults(random: Random, { id }: AcceptedJob): Promise<string> {
    const received = await this.#repeat(`the results of ${id}`, () =>
      this.#request(this.#gateway(random.int(0, 1)), `/jobs/${id}/results`, this.#keys.jobs, {
        headers: { Accept: 'application/x-ndjson' },
      }),
    );
    if (received?.status === 200) return received.text;
    this.#checker.violate('job-lost', `the results of ${id}: ${received?.status} ${received?.text}`);
    return '';
  }

  async #checkJobs(): Promise<void> {
    const { counts } = this.#checker;
    for (const job of this.#jobs.values()) {
      if (!job.ended || job.read === undefined) continue;
      const lines = job.read.trim().split('\n').filter(Boolean);
      const results = lines.map((line) => JSON.parse(line));
      counts.results += results.length;
      if (
        results.length !== job.texts.length ||
        results.some(({ index, text }, i) => index !== i || text !== job.texts[i])
      )
        this.#checker.violate(
          'job-results',
          `${job.id}: ${results.length} results for ${job.texts.length} texts`,
        );
      for (const result of results) {
        if (result.error === undefined) this.#checkScore(result.text, signed(result), `job ${job.id}`);
        else if (!job.canceled) this.#checker.violate('item-error', `${job.id} ${JSON.stringify(result)}`);
      }
      if ((await this.#readResults(this.#random, job)) !== job.read)
        this.#checker.violate(job.canceled ? 'changed-after-cancel' : 'result-changed', job.id);
    }
    await this.#eraseAll();
  }

  /** Every job that exists was accepted; then erases all of them. */
  async #eraseAll(): Promise<void> {
    const batches = new Set(this.#batches.map(({ id }) => uuidOf(id)));
    for (let round = 1; ; round++) {
      const received = await this.#get(this.#random, '/jobs?limit=1000');
      const jobs: { job_id: string; status: string }[] = received?.body?.jobs ?? [];
      if (jobs.length === 0) break;
      if (round > ERASE_ROUNDS) {
        this.#checker.violate('left-in-redis', `${jobs.length} jobs cannot be erased`);
        break;
      }
      for (const { job_id, status } of jobs) {
        if (!this.#jobs.has(job_id) && !batches.has(job_id) && !this.#unknownBatches.has(job_id))
          this.#checker.violate('job-not-accepted', `${job_id} (${status})`);
        const erase = () =>
          this.#request(this.#gateway(this.#random.int(0, 1)), `/jobs/${job_id}`, this.#keys.jobs, {
            method: 'DELETE',
          });
        // The first one cancels an unfinished job.
        await this.#repeat('an erasure', erase);
        await this.#repeat('an erasure', erase);
      }
    }
    this.#batches = [];
    this.#unknownBatches.clear();
  }

  /** Batches whose creation broke off, as job ids. */
  #unknownBatches = new Set<string>();

  /** Uploads a file of the OpenAI family, and makes a batch of it. */
  async #batch(random: Random): Promise<void> {
    const texts = Array.from({ length: random.int(5, 60) }, () => random.pick(sentences));
    const lines = texts.map((input, i) =>
      JSON.stringify({
        custom_id: `r${i}`,
        method: 'POST',
        url: '/v1/embeddings',
        body: { model: 'vectors', input },
      }),
    );
    const form = new FormData();
    form.append('purpose', 'batch');
    form.append('file', new Blob([lines.join('\n')]), 'requests.jsonl');
    const gateway = this.#gateway(random.int(0, 1));
    const file = await this.#request(gateway, '/v1/files', this.#keys.jobs, { method: 'POST', body: form });
    this.#use(this.#keys.jobs, file.status);
    if (file.status === 200) {
      const created = await this.#post(gateway, '/v1/batches', this.#keys.jobs, {
        input_file_id: file.body.id,
        endpoint: '/v1/embeddings',
        completion_window: '24h',
      });
      this.#use(this.#keys.jobs, created.status);
      if (created.status === 200) this.#batches.push({ id: created.body.id, texts });
      else this.#batchBroke = true;
      // The batch keeps what it needs.
      if (created.status !== 200)
        await this.#repeat('an erasure', () =>
          this.#request(gateway, `/v1/files/${file.body.id}`, this.#keys.jobs, { method: 'DELETE' }),
        );
    }
    await delay(random.int(500, 2_500));
  }

  #batchBroke = false;

  async #checkBatches(): Promise<void> {
    const untilMs = performance.now() + 2 * RETRY_MS;
    for (const { id, texts } of this.#batches) {
      for (;;) {
        const { body } = (await this.#get(this.#random, `/v1/batches/${id}`)) ?? {};
        if (body?.status === 'completed' && body.output_file_id) {
          const output = await this.#get(this.#random, `/v1/files/${body.output_file_id}/content`);
          const answers = (output?.text ?? '')
            .trim()
            .split('\n')
            .map((line) => JSON.parse(line));
          this.#checker.counts.results += answers.length;
          if (
            answers
              .map(({ custom_id }) => custom_id)
              .toSorted()
              .join() !==
            texts
              .map((_, i) => `r${i}`)
              .toSorted()
              .join()
          )
            this.#checker.violate(
              'job-results',
              `${id}: ${answers.length} answers for ${texts.length} requests`,
            );
          for (const { custom_id, response } of answers) {
            const text = texts[Number(custom_id.slice(1))] ?? '';
            this.#checkVector(text, response?.body?.data?.[0]?.embedding, `batch ${id}`);
          }
          break;
        }
        if (body?.status === undefined || ['failed', 'expired', 'cancelled'].includes(body.status)) {
          this.#checker.violate(body ? 'job-not-completed' : 'job-lost', `${id}: ${JSON.stringify(body)}`);
          break;
        }
        if (performance.now() > untilMs) {
          this.#checker.violate('job-not-ended', id);
          break;
        }
        await delay(200);
      }
    }
    // A batch whose creation was not confirmed may exist.
    if (this.#batchBroke) {
      const known = new Set([...this.#batches.map(({ id }) => uuidOf(id)), ...this.#jobs.keys()]);
      const listed = await this.#get(this.#random, '/v1/batches?limit=100');
      for (const { id } of listed?.body?.data ?? [])
        if (!known.has(uuidOf(id))) this.#unknownBatches.add(uuidOf(id));
      this.#batchBroke = false;
    }
    const files = await this.#get(this.#random, '/v1/files?limit=10000');
    for (const { id, purpose } of files?.body?.data ?? [])
      if (purpose === 'batch')
        await this.#repeat('an erasure', () =>
          this.#request(this.#gateway(0), `/v1/files/${id}`, this.#keys.jobs, { method: 'DELETE' }),
        );
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

  async #checkWebhooks(): Promise<void> {
    const wanted = [...this.#jobs.values()].filter(({ webhook, ended }) => webhook && ended);
    const waiting = () => [...wanted, ...this.#batches].filter(({ id }) => !this.#deliveries.has(id));
    const untilMs = performance.now() + RETRY_MS / 2;
    while (waiting().length > 0 && performance.now() < untilMs) await delay(100);
    for (const { id } of waiting()) this.#checker.violate('webhook-missing', id);
    const known = new Set([...wanted, ...this.#batches].map(({ id }) => id));
    for (const id of this.#deliveries.keys())
      if (!known.has(id) && !this.#unknownBatches.has(uuidOf(id)))
        this.#checker.violate('webhook-wrong', `a delivery for ${id}, which has no webhook`);
  }

  async #checkUsage(): Promise<void> {
    // Gateways report once a second.
    await delay(1_200);
    const { adminPort } = await this.#gateway(0).app.ready();
    for (const [key, { certain, maybe }] of this.#used) {
      const response = await fetch(`http://127.0.0.1:${adminPort}/admin/keys/${keyIdOf(key)}/usage`, {
        headers: { Authorization: `Bearer ${ADMIN_TOKEN}` },
      });
      const { days } = (await response.json()) as { days: { requests: number }[] };
      const counted = days.reduce((sum, { requests }) => sum + requests, 0);
      if (counted > certain + maybe)
        this.#checker.violate(
          'usage-counted-twice',
          `${counted} requests; ${certain} were answered, ${maybe} may have been`,
        );
    }
  }

  #checkScore(text: string, score: number, where: string): void {
    const expected = this.#scores.get(text) ?? Number.NaN;
    if (!(Math.abs(score - expected) <= TOLERANCE))
      this.#checker.violate('wrong-output', `${where}: ${score} instead of ${expected} for "${text}"`);
  }

  #checkVector(text: string, vector: number[] | undefined, where: string): void {
    const expected = this.#vectors.get(text);
    if (
      !vector ||
      !expected ||
      vector.length !== expected.length ||
      vector.some((value, i) => !(Math.abs(value - (expected[i] ?? 0)) <= TOLERANCE))
    )
      this.#checker.violate('wrong-output', `${where}: another vector for "${text}"`);
  }
}

/** The score of a classification as one number: the confidence, negative for a negative sentiment. */
const signed = ({ sentiment, confidence }: { sentiment: string; confidence: number }) =>
  sentiment === 'positive' ? confidence : -confidence;

/** The id of the job behind a batch. */
const uuidOf = (batchId: string) =>
  batchId.replace(/^batch_/, '').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
