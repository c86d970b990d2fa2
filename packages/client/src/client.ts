import type {
  Accepted,
  Account,
  Analysis,
  CommentAnalysis,
  ItemBody,
  JobBody,
  JobsBody,
  Model,
  Prediction,
  ResultsBody,
} from '@sluice/contract';
import { errorOf, SluiceError } from './error.js';
import { linesOf } from './lines.js';

export type { Accepted, Account, Analysis, ItemBody, JobBody, Model, Prediction } from '@sluice/contract';

export interface ClientOptions {
  /** Where Sluice is, such as `http://localhost:8000`. */
  url: string;
  apiKey: string;
  /** How often a request that got 429 or 503, or no answer, is tried again; 4 if not given. */
  retries?: number;
  /** Instead of the platform's `fetch`. */
  fetch?: typeof fetch;
}

interface CallOptions {
  /** Ends the call, and the wait before another try. */
  signal?: AbortSignal;
}

interface WorkOptions extends CallOptions {
  /** Id of a configured model; without it, the default. */
  model?: string;
  /** A shorter deadline than the server's, in seconds. */
  timeoutSeconds?: number;
}

/** A text of a batch, with an id of your own if you like. */
export type BatchItem = string | { id?: string; text: string };

const FIRST_WAIT_MS = 250;
const LAST_WAIT_MS = 10_000;
/** A stream of events that broke is opened again after this, until nothing was heard for so long. */
const AGAIN_MS = 500;
const SILENCE_MS = 60_000;

/**
 * A client for Sluice. Requests that got 429 or 503 are tried again when `Retry-After` says so; a batch only with an
 * idempotency key, which `batch` makes if you give none.
 *
 * @example
 * const sluice = new Sluice({ url: 'http://localhost:8000', apiKey: process.env.SLUICE_API_KEY });
 * const { sentiment } = await sluice.predict('This product is amazing!');
 * const { job_id } = await sluice.batch(['good', 'bad']);
 * for await (const { text, sentiment } of sluice.results(job_id)) console.log(sentiment, text);
 */
export class Sluice {
  #url: string;
  #apiKey: string;
  #retries: number;
  #fetch: typeof fetch;

  constructor({ url, apiKey, retries = 4, fetch: given = fetch }: ClientOptions) {
    this.#url = url.replace(/\/+$/, '');
    this.#apiKey = apiKey;
    this.#retries = retries;
    this.#fetch = (...call) => given(...call);
  }

  /** Sentiment and confidence of a text. @throws SluiceError */
  predict(text: string, options: WorkOptions = {}): Promise<Prediction> {
    return this.#work('/predict', { text }, options);
  }

  /** The model's own result for a text: its `topK` best labels. @throws SluiceError */
  analyze(text: string, { topK, ...options }: WorkOptions & { topK?: number } = {}): Promise<Analysis> {
    return this.#work('/analyze', { text, ...(topK === undefined ? {} : { top_k: topK }) }, options);
  }

  /** The top label of a text. @throws SluiceError */
  analyzeComment(text: string, options: WorkOptions = {}): Promise<CommentAnalysis> {
    return this.#work('/analyze_comment', { text }, options);
  }

  /**
   * Hands over a batch.
   * @param items texts
   * @param idempotencyKey the same key and items give the same job, however often they are sent; a new one if not given
   * @throws SluiceError
   */
  async batch(
    items: Iterable<BatchItem>,
    {
      model,
      idempotencyKey = crypto.randomUUID(),
      signal,
    }: CallOptions & { model?: string; idempotencyKey?: string } = {},
  ): Promise<Accepted> {
    const parts: string[] = [];
    for (const item of items) parts.push(`${JSON.stringify(item)}\n`);
    const query = model === undefined ? '' : `?model=${encodeURIComponent(model)}`;
    const response = await this.#call(`/analyze_batch${query}`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/x-ndjson', 'Idempotency-Key': idempotencyKey },
      // A Blob can be sent again.
      body: new Blob(parts),
      ...(signal ? { signal } : {}),
    });
    return response.json();
  }

  /** A job's status and progress. @throws SluiceError */
  job(jobId: string, options: CallOptions = {}): Promise<JobBody> {
    return this.#get(`/jobs/${encodeURIComponent(jobId)}`, options);
  }

  /** Own jobs, newest first. @throws SluiceError */
  async *jobs(options: CallOptions = {}): AsyncGenerator<JobBody> {
    for (let cursor: string | null = ''; cursor !== null; ) {
      const page: JobsBody = await this.#get(`/jobs?limit=100${cursor && `&cursor=${cursor}`}`, options);
      yield* page.jobs;
      cursor = page.next_cursor;
    }
  }

  /**
   * Cancels a job that is unfinished, and resolves to it; erases one that is finished, and resolves to undefined.
   * @throws SluiceError
   */
  async end(jobId: string, options: CallOptions = {}): Promise<JobBody | undefined> {
    // Once: sent again after a lost answer it would erase what it was to cancel.
    const response = await this.#call(
      `/jobs/${encodeURIComponent(jobId)}`,
      { method: 'DELETE', ...options },
      0,
    );
    return response.status === 204 ? undefined : response.json();
  }

  /** The results of a finished job, in input order. A page that is lost is asked for again. @throws SluiceError */
  async *results(jobId: string, options: CallOptions = {}): AsyncGenerator<ItemBody> {
    for (let cursor: string | null = ''; cursor !== null; ) {
      const page: ResultsBody = await this.#get(
        `/jobs/${encodeURIComponent(jobId)}/results?limit=1000${cursor && `&cursor=${cursor}`}`,
        options,
      );
      yield* page.results;
      cursor = page.next_cursor;
    }
  }

  /**
   * A job's progress as it is told, until it has ended: the last one has a `status` that says how. A stream that
   * breaks is opened again. @throws SluiceError
   */
  async *events(jobId: string, options: CallOptions = {}): AsyncGenerator<JobBody> {
    let heardMs = Date.now();
    for (;;) {
      try {
        const response = await this.#call(
          `/jobs/${encodeURIComponent(jobId)}/events`,
          { headers: { Accept: 'text/event-stream' }, ...options },
          0,
        );
        if (response.body === null) throw new TypeError('The events have no body');
        for await (const line of linesOf(response.body)) {
          heardMs = Date.now();
          if (!line.startsWith('data: ')) continue;
          const job: JobBody = JSON.parse(line.slice('data: '.length));
          yield job;
          if (isFinished(job)) return;
        }
      } catch (error) {
        options.signal?.throwIfAborted();
        const passing = !(error instanceof SluiceError) || error.status === 503 || error.status === 429;
        // A gateway that restarts is back soon, and tells first what happened meanwhile.
        if (!passing || Date.now() - heardMs > SILENCE_MS) throw error;
      }
      await wait(AGAIN_MS, options.signal);
    }
  }

  /** What the key may do, and what is left of its limits. @throws SluiceError */
  me(options: CallOptions = {}): Promise<Account> {
    return this.#get('/me', options);
  }

  /** The configured models, with what live workers say of them. @throws SluiceError */
  models(options: CallOptions = {}): Promise<Model[]> {
    return this.#get('/models', options);
  }

  async #work<T>(path: string, body: object, { model, timeoutSeconds, signal }: WorkOptions): Promise<T> {
    const response = await this.#call(path, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({
        ...body,
        ...(model === undefined ? {} : { model }),
        ...(timeoutSeconds === undefined ? {} : { timeout_seconds: timeoutSeconds }),
      }),
      ...(signal ? { signal } : {}),
    });
    return response.json();
  }

  async #get<T>(path: string, options: CallOptions): Promise<T> {
    return (await this.#call(path, { ...options })).json();
  }

  /** One request with its tries. */
  async #call(path: string, init: RequestInit, retries = this.#retries): Promise<Response> {
    const headers = { 'X-API-Key': this.#apiKey, ...init.headers };
    for (let tries = 0; ; tries++) {
      let error: unknown;
      let waitMs = Math.min(LAST_WAIT_MS, FIRST_WAIT_MS * 2 ** tries);
      try {
        const response = await this.#fetch(`${this.#url}${path}`, { ...init, headers });
        if (response.ok) return response;
        const refusal = await errorOf(response);
        if (refusal.status !== 429 && refusal.status !== 503) throw refusal;
        error = refusal;
        if (refusal.retryAfterSeconds !== undefined) waitMs = refusal.retryAfterSeconds * 1000;
      } catch (thrown) {
        init.signal?.throwIfAborted();
        if (thrown instanceof SluiceError) throw thrown;
        error = thrown;
      }
      if (tries >= retries) throw error;
      await wait(waitMs, init.signal ?? undefined);
    }
  }
}

const isFinished = ({ status }: JobBody) => status !== 'queued' && status !== 'running';

function wait(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const aborted = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', aborted);
      resolve();
    }, ms);
    if (signal?.aborted) aborted();
    else signal?.addEventListener('abort', aborted, { once: true });
  });
}
