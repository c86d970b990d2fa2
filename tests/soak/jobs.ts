import { setTimeout as delay } from 'node:timers/promises';
import { type Answers, sentences } from './answers.js';
import type { Checker } from './checker.js';
import { type Client, json, RETRY_MS } from './client.js';
import type { Random } from './random.js';

/** After this many rounds of erasing, jobs that are still there cannot be erased. */
const ERASE_ROUNDS = 10;

/** A job that was accepted. */
interface AcceptedJob {
  id: string;
  texts: readonly string[];
  webhook: boolean;
  canceled: boolean;
  /** The results as they were first read. */
  read?: string;
  /** Whether it ended as it should. */
  ended: boolean;
}

/** Submits jobs, follows each to its end, and checks its results. */
export class Jobs {
  /** The API key, and the URL for its webhooks. */
  key = '';
  hook = '';
  #client: Client;
  #checker: Checker;
  #answers: Answers;
  #jobs = new Map<string, AcceptedJob>();
  #submitted = 0;

  constructor(client: Client, checker: Checker, answers: Answers) {
    this.#client = client;
    this.#checker = checker;
    this.#answers = answers;
  }

  /** Ids of the jobs whose end must be delivered. */
  get withWebhook(): readonly string[] {
    return [...this.#jobs.values()].filter(({ webhook, ended }) => webhook && ended).map(({ id }) => id);
  }

  /** Submits a job. Resolves to a function that follows it to its end, or to undefined if it was not accepted. */
  async submit(random: Random): Promise<(() => Promise<void>) | undefined> {
    const texts = Array.from({ length: random.int(5, 200) }, () => random.pick(sentences));
    const webhook = random.chance(0.4);
    const cancelAfterMs = random.chance(0.15) ? random.int(0, 2_000) : undefined;
    // A repeated submission gives the same job.
    const headers = { 'Idempotency-Key': `${this.#checker.seed}-${++this.#submitted}` };
    const body = { texts, ...(webhook ? { webhook: { url: this.hook } } : {}) };
    const received = await this.#client.repeat('a job', () =>
      this.#client.post(this.#client.gateway(random), '/analyze_batch', this.key, json(body, headers)),
    );
    if (received === undefined) return undefined;
    const { status, text, gateway } = received;
    if (status !== 202) {
      this.#checker.violate(
        'unexpected-status',
        `POST /analyze_batch ${status} ${text.slice(0, 300)}\n${gateway.app.output.slice(-3_000)}`,
      );
      return undefined;
    }
    const job: AcceptedJob = { id: received.body.job_id, texts, webhook, canceled: false, ended: false };
    this.#checker.counts.jobs++;
    this.#jobs.set(job.id, job);
    const own = random.fork();
    return () => this.#follow(job, own, cancelAfterMs);
  }

  /** Reads the results of each job of a seed again, and checks them. */
  async check(random: Random): Promise<void> {
    for (const job of this.#jobs.values()) {
      if (!job.ended || job.read === undefined) continue;
      const results = job.read
        .trim()
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line));
      this.#checker.counts.results += results.length;
      if (
        results.length !== job.texts.length ||
        results.some(({ index, text }, i) => index !== i || text !== job.texts[i])
      )
        this.#checker.violate(
          'job-results',
          `${job.id}: ${results.length} results for ${job.texts.length} texts`,
        );
      for (const result of results) {
        if (result.error === undefined)
          this.#answers.checkClassification(result.text, result, `job ${job.id}`);
        else if (!job.canceled) this.#checker.violate('item-error', `${job.id} ${JSON.stringify(result)}`);
      }
      if ((await this.#read(random, job.id)) !== job.read)
        this.#checker.violate(job.canceled ? 'changed-after-cancel' : 'result-changed', job.id);
    }
  }

  /** Every job that exists was accepted, or is one of these batches; then erases all of them. */
  async eraseAll(random: Random, batches: ReadonlySet<string>): Promise<void> {
    for (let round = 1; ; round++) {
      const received = await this.#client.requestWithRetries(random, '/jobs?limit=1000', this.key);
      const jobs: { job_id: string; status: string }[] = received?.body?.jobs ?? [];
      if (jobs.length === 0) break;
      if (round > ERASE_ROUNDS) {
        this.#checker.violate('left-in-redis', `${jobs.length} jobs cannot be erased`);
        break;
      }
      for (const { job_id, status } of jobs) {
        if (!this.#jobs.has(job_id) && !batches.has(job_id))
          this.#checker.violate('job-not-accepted', `${job_id} (${status})`);
        // The first one cancels an unfinished job.
        for (let i = 0; i < 2; i++)
          await this.#client.requestWithRetries(random, `/jobs/${job_id}`, this.key, { method: 'DELETE' });
      }
    }
    this.#jobs.clear();
  }

  async #follow(job: AcceptedJob, random: Random, cancelAfterMs: number | undefined): Promise<void> {
    if (cancelAfterMs !== undefined) {
      await delay(cancelAfterMs);
      const canceled = await this.#client.requestWithRetries(random, `/jobs/${job.id}/cancel`, this.key, {
        method: 'POST',
      });
      if (canceled?.status !== 200)
        this.#checker.violate('job-lost', `cancel of ${job.id}: ${canceled?.status}`);
      job.canceled = canceled?.body?.status === 'canceled';
    }
    const untilMs = performance.now() + 2 * RETRY_MS;
    for (;;) {
      const received = await this.#client.requestWithRetries(random, `/jobs/${job.id}`, this.key);
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
    job.read = await this.#read(random, job.id);
  }

  async #read(random: Random, id: string): Promise<string> {
    const received = await this.#client.requestWithRetries(random, `/jobs/${id}/results`, this.key, {
      headers: { Accept: 'application/x-ndjson' },
    });
    if (received?.status === 200) return received.text;
    this.#checker.violate('job-lost', `the results of ${id}: ${received?.status} ${received?.text}`);
    return '';
  }
}
