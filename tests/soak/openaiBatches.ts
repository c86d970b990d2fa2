import { setTimeout as delay } from 'node:timers/promises';
import { type Answers, sentences } from './answers.js';
import type { Checker } from './checker.js';
import { type Client, isRefusal, json, RETRY_MS, type Received } from './client.js';
import type { Random } from './random.js';

/** A batch that was created. */
interface CreatedBatch {
  id: string;
  texts: readonly string[];
  canceled: boolean;
}

/** Clients of the OpenAI family: upload a file, make a batch of it, and read its output. */
export class OpenAiBatches {
  key = '';
  #client: Client;
  #checker: Checker;
  #answers: Answers;
  #batches: CreatedBatch[] = [];
  /** Whether a creation was not confirmed, so that a batch may exist. */
  #isUnsure = false;
  #unsureIds: readonly string[] = [];

  constructor(client: Client, checker: Checker, answers: Answers) {
    this.#client = client;
    this.#checker = checker;
    this.#answers = answers;
  }

  /** Ids of the batches whose end must be delivered. */
  get created(): readonly string[] {
    return this.#batches.map(({ id }) => id);
  }

  /** Ids of batches whose creation was not confirmed. */
  get unsure(): readonly string[] {
    return this.#unsureIds;
  }

  /** Ids of the jobs of all batches. */
  get jobIds(): ReadonlySet<string> {
    return new Set([...this.created, ...this.unsure].map(uuidOf));
  }

  /** Creates a batch, and perhaps cancels it. */
  async create(random: Random): Promise<void> {
    const texts = Array.from({ length: random.int(5, 60) }, () => random.pick(sentences));
    const cancelAfterMs = random.chance(0.2) ? random.int(0, 1_000) : undefined;
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
    const gateway = this.#client.gateway(random);
    // If the upload is not confirmed, the file may exist; `check` erases it.
    const file = await this.#client.post(gateway, '/v1/files', this.key, { body: form });
    if (!this.#isCreated(file, 'POST /v1/files')) return;
    const created = await this.#client.post(
      gateway,
      '/v1/batches',
      this.key,
      json({ input_file_id: file.body.id, endpoint: '/v1/embeddings', completion_window: '24h' }),
    );
    if (!this.#isCreated(created, 'POST /v1/batches')) {
      this.#isUnsure = true;
      return;
    }
    const batch = { id: created.body.id, texts, canceled: false };
    this.#batches.push(batch);
    if (cancelAfterMs === undefined) return;
    await delay(cancelAfterMs);
    const canceled = await this.#client.requestWithRetries(
      random,
      `/v1/batches/${batch.id}/cancel`,
      this.key,
      {
        method: 'POST',
      },
    );
    if (canceled?.status !== 200)
      this.#checker.violate('job-lost', `cancel of ${batch.id}: ${canceled?.status} ${canceled?.text}`);
    // A batch that has already ended keeps its status.
    batch.canceled = canceled?.body?.status === 'cancelled';
  }

  /** Waits until each batch of a seed has ended, checks its output, and erases all files. */
  async check(random: Random): Promise<void> {
    for (const batch of this.#batches) await this.#checkBatch(random, batch);
    this.#unsureIds = this.#isUnsure ? await this.#findUnsure(random) : [];
    this.#isUnsure = false;
    const files = await this.#client.requestWithRetries(random, '/v1/files?limit=10000', this.key);
    for (const { id, purpose } of files?.body?.data ?? [])
      if (purpose === 'batch')
        await this.#client.requestWithRetries(random, `/v1/files/${id}`, this.key, { method: 'DELETE' });
  }

  /** Forgets the batches of a seed. */
  clear(): void {
    this.#batches = [];
    this.#unsureIds = [];
  }

  /** Whether a file or a batch was created. A refusal, or a connection that broke, is no violation. */
  #isCreated({ status, text, gateway }: Received, what: string): boolean {
    if (status !== 200 && !isRefusal(status))
      this.#checker.violate(
        'unexpected-status',
        `${what} ${status} ${text.slice(0, 300)}\n${gateway.app.output.slice(-3_000)}`,
      );
    return status === 200;
  }

  async #checkBatch(random: Random, { id, texts, canceled }: CreatedBatch): Promise<void> {
    const untilMs = performance.now() + 2 * RETRY_MS;
    for (;;) {
      const { body } = (await this.#client.requestWithRetries(random, `/v1/batches/${id}`, this.key)) ?? {};
      const wanted = canceled ? 'cancelled' : 'completed';
      if (body?.status === wanted) {
        await this.#checkOutput(random, { id, texts, canceled }, body);
        return;
      }
      if (body?.status !== 'in_progress') {
        const ended = canceled ? 'changed-after-cancel' : 'job-not-completed';
        this.#checker.violate(body ? ended : 'job-lost', `${id}: ${JSON.stringify(body)}`);
        return;
      }
      if (performance.now() > untilMs) {
        this.#checker.violate('job-not-ended', id);
        return;
      }
      await delay(200);
    }
  }

  async #checkOutput(
    random: Random,
    { id, texts, canceled }: CreatedBatch,
    {
      output_file_id,
      request_counts,
    }: {
      output_file_id: string | null;
      request_counts: { total: number; completed: number; failed: number };
    },
  ): Promise<void> {
    const output = output_file_id
      ? await this.#client.requestWithRetries(random, `/v1/files/${output_file_id}/content`, this.key)
      : undefined;
    if (output_file_id && output?.status !== 200) {
      this.#checker.violate(
        'job-lost',
        `the output of ${id}: ${output?.status} ${output?.text.slice(0, 300)}`,
      );
      return;
    }
    const answers = (output?.text ?? '')
      .trim()
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
    this.#checker.counts.results += answers.length;
    const ids = new Set(answers.map(({ custom_id }) => custom_id));
    const isComplete = canceled || (answers.length === texts.length && request_counts.failed === 0);
    const isOurs = answers.every(({ custom_id }) => texts[Number(String(custom_id).slice(1))] !== undefined);
    if (ids.size !== answers.length || !isComplete || !isOurs)
      this.#checker.violate('job-results', `${id}: ${answers.length} answers for ${texts.length} requests`);
    if (request_counts.total !== texts.length || request_counts.completed !== answers.length)
      this.#checker.violate(
        'job-counts',
        `${id}: ${JSON.stringify(request_counts)}, ${answers.length} answers`,
      );
    for (const { custom_id, response } of answers) {
      const text = texts[Number(String(custom_id).slice(1))] ?? '';
      this.#answers.checkVector(text, response?.body?.data?.[0]?.embedding, `batch ${id}`);
    }
  }

  async #findUnsure(random: Random): Promise<readonly string[]> {
    const listed = await this.#client.requestWithRetries(random, '/v1/batches?limit=100', this.key);
    const ids: string[] = (listed?.body?.data ?? []).map(({ id }: { id: string }) => id);
    return ids.filter((id) => !this.created.includes(id));
  }
}

/** The id of the job behind a batch. */
const uuidOf = (batchId: string) =>
  batchId.replace(/^batch_/, '').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
