import { type EventSourceMessage, EventSourceParserStream } from 'eventsource-parser/stream';
import type {
  Accepted,
  Account,
  Analysis,
  CommentAnalysis,
  Job as JobBody,
  Result as JobResult,
  Jobs as JobsPage,
  Model,
  Prediction,
  Results as ResultsPage,
} from './api.js';
import { ConnectionError, errorOf, SluiceError } from './error.js';

export type {
  Accepted,
  Account,
  Analysis,
  CommentAnalysis,
  Job as JobBody,
  LabelScore,
  Model,
  Prediction,
  Result as JobResult,
} from './api.js';

export interface ClientOptions {
  /** Base URL of the server, such as `http://localhost:8000`. */
  url: string;
  apiKey: string;
  /** How often a request is retried after 429, 503 or no response; 4 if not given. */
  retries?: number;
  /**
   * How long a call may wait for its retries in total, in seconds; 60 if not given. If `Retry-After` asks for more, the
   * error is thrown at once, with its `retryAfterSeconds`.
   */
  maxWaitSeconds?: number;
  /** Called before each wait for a retry; `waitMs` is in milliseconds. */
  onRetry?: (error: SluiceError | ConnectionError, waitMs: number) => void;
  /** Replaces the platform's `fetch`. */
  fetch?: typeof fetch;
}

interface CallOptions {
  /** Aborts the call, and the wait before a retry. */
  signal?: AbortSignal;
}

interface WorkOptions extends CallOptions {
  /** Id of a configured model; the default one if not given. */
  model?: string;
  /** A shorter deadline than the server's, in seconds. */
  timeoutSeconds?: number;
}

/** A text of a job, or another input, optionally with your own id. */
export type BatchItem =
  | string
  | { id?: string | number; text: string }
  | { id?: string | number; input: unknown };

const FIRST_WAIT_MS = 250;
const LAST_WAIT_MS = 10_000;
/** If a stream of events ends and the job has not, it is reopened after this long. */
const REOPEN_AFTER_MS = 500;
/** A stream of events that was open for this long has worked, even if the job made no progress. */
const LONG_STREAM_MS = 10_000;

/**
 * A client for Sluice. Requests that got 429, 503 or no response are retried, after `Retry-After` if there is one. `batch`
 * is retried with an idempotency key, which it generates if you give none. All methods throw `SluiceError` for an
 * error response, and `ConnectionError` if there was no response.
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
  #maxWaitMs: number;
  #onRetry: NonNullable<ClientOptions['onRetry']>;
  #fetch: typeof fetch;

  /** @throws TypeError for an invalid URL */
  constructor({
    url,
    apiKey,
    retries = 4,
    maxWaitSeconds = 60,
    onRetry = () => {},
    fetch: given = fetch,
  }: ClientOptions) {
    this.#url = new URL(url).href.replace(/\/+$/, '');
    this.#apiKey = apiKey;
    this.#retries = retries;
    this.#maxWaitMs = maxWaitSeconds * 1000;
    this.#onRetry = onRetry;
    this.#fetch = (...call) => given(...call);
  }

  /** Sentiment and confidence of a text. @throws SluiceError */
  predict(text: string, options: WorkOptions = {}): Promise<Prediction> {
    return this.#work('/predict', { text }, options);
  }

  /** The `topK` best labels of a text with their scores. @throws SluiceError */
  analyze(text: string, { topK, ...options }: WorkOptions & { topK?: number } = {}): Promise<Analysis> {
    return this.#work('/analyze', { text, ...(topK === undefined ? {} : { top_k: topK }) }, options);
  }

  /** The top label of a text. @throws SluiceError */
  analyzeComment(text: string, options: WorkOptions = {}): Promise<CommentAnalysis> {
    return this.#work('/analyze_comment', { text }, options);
  }

  /**
   * The output of any model for one input, or a list of outputs for a list of inputs.
   * @param inputs as the model's task takes them
   * @param parameters of the model's task; `models()` has their schema
   * @throws SluiceError
   */
  infer(
    model: string,
    inputs: unknown,
    { parameters, timeoutSeconds, signal }: Omit<WorkOptions, 'model'> & { parameters?: object } = {},
  ): Promise<unknown> {
    const body = { inputs, ...(parameters === undefined ? {} : { parameters }) };
    return this.#work(`/models/${encodeURIComponent(model)}`, body, {
      ...(timeoutSeconds === undefined ? {} : { timeoutSeconds }),
      ...(signal === undefined ? {} : { signal }),
    });
  }

  /**
   * Submits a job.
   * @param items the texts, or other inputs
   * @param parameters of the model's task, for all items
   * @param idempotencyKey the same key and items give the same job, even if they are sent several times; generated if
   *   not given
   * @throws SluiceError
   */
  async batch(
    items: Iterable<BatchItem>,
    {
      model,
      parameters,
      idempotencyKey = crypto.randomUUID(),
      signal,
    }: CallOptions & { model?: string; parameters?: object; idempotencyKey?: string } = {},
  ): Promise<Accepted> {
    const parts = [`${JSON.stringify({ batch: { model, parameters } })}\n`];
    for (const item of items) parts.push(`${JSON.stringify(item)}\n`);
    return this.#call('/analyze_batch', {
      method: 'POST',
      headers: { 'Content-Type': 'application/x-ndjson', 'Idempotency-Key': idempotencyKey },
      // Unlike a stream, a Blob can be sent again.
      body: new Blob(parts),
      ...(signal ? { signal } : {}),
    });
  }

  /**
   * Submits a file in the format of OpenAI batches, a request on each line, as a job. The file is deleted again, since the
   * job has its own copy of the requests.
   * @param endpoint that the requests are for, such as `/v1/embeddings`
   * @param idempotencyKey as for `batch`
   * @returns the id of the job, and the errors of the lines; with any error the job has failed
   * @throws SluiceError
   */
  async batchOfRequests(
    file: Blob,
    {
      endpoint,
      idempotencyKey = crypto.randomUUID(),
      signal,
    }: CallOptions & { endpoint: string; idempotencyKey?: string },
  ): Promise<{ jobId: string; errors: { line: number | null; message: string }[] }> {
    const form = new FormData();
    form.append('purpose', 'batch');
    form.append('file', file, 'requests.jsonl');
    const options = signal ? { signal } : {};
    const { id } = await this.#call<{ id: string }>('/v1/files', { method: 'POST', body: form, ...options });
    try {
      const batch = await this.#call<{
        id: string;
        errors: { data: { line: number | null; message: string }[] } | null;
      }>('/v1/batches', {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', 'Idempotency-Key': idempotencyKey },
        body: JSON.stringify({ input_file_id: id, endpoint, completion_window: '24h' }),
        ...options,
      });
      const hex = batch.id.slice('batch_'.length);
      return {
        jobId: hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5'),
        errors: batch.errors?.data ?? [],
      };
    } finally {
      // Best effort: the file expires anyway.
      await this.#call(`/v1/files/${id}`, { method: 'DELETE' }, { retries: 0 }).catch(() => {});
    }
  }

  /**
   * The lines of the output and the error file of a job of requests, in the order of the requests.
   * @throws SluiceError
   */
  async *requestOutputs(jobId: string, options: CallOptions = {}): AsyncGenerator<string> {
    const hex = jobId.replaceAll('-', '');
    const indexOf = (line: string) => Number(/"id":"batch_req_\w+_(\d+)"/.exec(line)?.[1]);
    const sources = ['output', 'errors'].map((kind) =>
      this.#lines(`/v1/files/file-${hex}-${kind}/content`, options),
    );
    try {
      const next = await Promise.all(sources.map((source) => source.next()));
      for (;;) {
        let first: number | undefined;
        for (const [i, { done, value }] of next.entries()) {
          const other = first === undefined ? undefined : next[first]?.value;
          if (!done && (other === undefined || indexOf(value) < indexOf(other))) first = i;
        }
        const [source, line] = first === undefined ? [] : [sources[first], next[first]?.value];
        if (first === undefined || source === undefined || line === undefined) return;
        yield line;
        next[first] = await source.next();
      }
    } finally {
      // A caller that stops early releases the connections.
      await Promise.all(sources.map((source) => source.return(undefined)));
    }
  }

  /** The lines of a file; none if there is no such file. */
  async *#lines(path: string, options: CallOptions): AsyncGenerator<string, undefined> {
    const read = async (response: Response) => response.body;
    const body = await this.#call<Response['body']>(path, options, { read }).catch((error: unknown) => {
      if (error instanceof SluiceError && error.status === 404) return null;
      throw error;
    });
    if (body === null) return undefined;
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    try {
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        const lines = (rest + part.value).split('\n');
        rest = lines.pop() ?? '';
        yield* lines;
      }
      return undefined;
    } catch (error) {
      throw new ConnectionError(this.#url, error, 'Lost the connection to');
    } finally {
      // A caller that stops early releases the connection.
      await reader.cancel().catch(() => {});
    }
  }

  /** Status and progress of a job. @throws SluiceError */
  job(jobId: string, options: CallOptions = {}): Promise<JobBody> {
    return this.#call(`/jobs/${encodeURIComponent(jobId)}`, options);
  }

  /** Jobs of the key, newest first. @throws SluiceError */
  async *jobs(options: CallOptions = {}): AsyncGenerator<JobBody> {
    for (let cursor: string | null = ''; cursor !== null; ) {
      const page: JobsPage = await this.#call(`/jobs?limit=100${cursor && `&cursor=${cursor}`}`, options);
      yield* page.jobs;
      cursor = page.next_cursor;
    }
  }

  /** Cancels a job and resolves to it. One that has already ended stays as it is. @throws SluiceError */
  cancel(jobId: string, options: CallOptions = {}): Promise<JobBody> {
    return this.#call(`/jobs/${encodeURIComponent(jobId)}/cancel`, { method: 'POST', ...options });
  }

  /**
   * Cancels an unfinished job and resolves to it, or erases a finished one and resolves to undefined.
   * @throws SluiceError
   */
  async end(jobId: string, options: CallOptions = {}): Promise<JobBody | undefined> {
    // Never retried: after a lost response a second DELETE would erase the job that the first one canceled.
    return this.#call(`/jobs/${encodeURIComponent(jobId)}`, { method: 'DELETE', ...options }, { retries: 0 });
  }

  /** The results of a finished job in input order. A page that is lost is requested again. @throws SluiceError */
  async *results(jobId: string, options: CallOptions = {}): AsyncGenerator<JobResult> {
    for (let cursor: string | null = ''; cursor !== null; ) {
      const page: ResultsPage = await this.#call(
        `/jobs/${encodeURIComponent(jobId)}/results?limit=1000${cursor && `&cursor=${cursor}`}`,
        options,
      );
      yield* page.results;
      cursor = page.next_cursor;
    }
  }

  /**
   * The progress of a job until it has ended; the `status` of the last event says how. If the stream ends
   * and the job has not, it is reopened, until nothing new has arrived for `maxWaitSeconds`.
   * @throws SluiceError
   */
  async *events(jobId: string, options: CallOptions = {}): AsyncGenerator<JobBody> {
    let failingSinceMs: number | undefined;
    let latest = '';
    for (;;) {
      const openedMs = Date.now();
      let ended: SluiceError | ConnectionError;
      try {
        const events = await this.#call(
          `/jobs/${encodeURIComponent(jobId)}/events`,
          { headers: { Accept: 'text/event-stream' }, ...options },
          { retries: 0, read: readEvents },
        );
        for await (const { data } of events) {
          // Each stream begins with the present state, which alone is no sign of progress.
          if (data !== latest) failingSinceMs = undefined;
          latest = data;
          const job: JobBody = JSON.parse(data);
          yield job;
          if (isFinished(job)) return;
        }
        ended = new ConnectionError(
          this.#url,
          new Error('the stream of events ended, but not the job'),
          'Lost the connection to',
        );
      } catch (error) {
        options.signal?.throwIfAborted();
        const temporary = !(error instanceof SluiceError) || error.status === 503 || error.status === 429;
        if (!temporary) throw error;
        ended = error instanceof SluiceError ? error : new ConnectionError(this.#url, error);
      }
      // A restarting gateway is back soon, and first sends the current state.
      const seconds = ended instanceof SluiceError ? ended.retryAfterSeconds : undefined;
      const waitMs = seconds === undefined ? REOPEN_AFTER_MS : seconds * 1000;
      // Proxies cut streams that are long, which is no failure.
      if (Date.now() - openedMs > LONG_STREAM_MS) failingSinceMs = undefined;
      failingSinceMs ??= Date.now();
      if (Date.now() + waitMs - failingSinceMs > this.#maxWaitMs) throw ended;
      await wait(waitMs, options.signal);
    }
  }

  /** Scopes of the key, and what remains of its limits. @throws SluiceError */
  me(options: CallOptions = {}): Promise<Account> {
    return this.#call('/me', options);
  }

  /** The configured models, with what live workers report about them. @throws SluiceError */
  models(options: CallOptions = {}): Promise<Model[]> {
    return this.#call('/models', options);
  }

  #work<T>(path: string, body: object, { model, timeoutSeconds, signal }: WorkOptions): Promise<T> {
    return this.#call(path, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({
        ...body,
        ...(model === undefined ? {} : { model }),
        ...(timeoutSeconds === undefined ? {} : { timeout_seconds: timeoutSeconds }),
      }),
      ...(signal ? { signal } : {}),
    });
  }

  /**
   * One request with its retries.
   * @param read reads the body of the response; a body that breaks off is requested again
   */
  async #call<T>(
    path: string,
    init: RequestInit,
    {
      retries = this.#retries,
      read = readJson,
    }: { retries?: number; read?: (response: Response) => Promise<T> } = {},
  ): Promise<T> {
    const headers = { 'X-API-Key': this.#apiKey, ...init.headers };
    let waitedMs = 0;
    for (let tries = 0; ; tries++) {
      let error: SluiceError | ConnectionError;
      let waitMs = Math.min(LAST_WAIT_MS, FIRST_WAIT_MS * 2 ** tries);
      try {
        const response = await this.#fetch(`${this.#url}${path}`, { ...init, headers });
        if (response.ok) return await read(response);
        const refusal = await errorOf(response);
        // A full storage does not become free by itself.
        if ((refusal.status !== 429 && refusal.status !== 503) || refusal.code === 'storage_full')
          throw refusal;
        error = refusal;
        if (refusal.retryAfterSeconds !== undefined) waitMs = refusal.retryAfterSeconds * 1000;
      } catch (thrown) {
        init.signal?.throwIfAborted();
        if (thrown instanceof SluiceError) throw thrown;
        error = new ConnectionError(this.#url, thrown);
      }
      waitedMs += waitMs;
      if (tries >= retries || waitedMs > this.#maxWaitMs) throw error;
      this.#onRetry(error, waitMs);
      await wait(waitMs, init.signal ?? undefined);
    }
  }
}

/** The events of a response as they arrive. Not every browser can iterate over a stream itself. */
async function readEvents({ body }: Response): Promise<AsyncGenerator<EventSourceMessage>> {
  if (body === null) throw new TypeError('The stream of events has no body');
  const reader = body
    .pipeThrough(new TextDecoderStream())
    .pipeThrough(new EventSourceParserStream())
    .getReader();
  return (async function* () {
    try {
      for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
    } finally {
      // A caller that stops early releases the connection.
      await reader.cancel().catch(() => {});
    }
  })();
}

async function readJson(response: Response) {
  return response.status === 204 ? undefined : response.json();
}

const isFinished = ({ status }: JobBody) => status !== 'queued' && status !== 'running';

function wait(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, ms);
    if (signal?.aborted) onAbort();
    else signal?.addEventListener('abort', onAbort, { once: true });
  });
}
