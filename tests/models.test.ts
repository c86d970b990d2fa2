import { once } from 'node:events';
import { cpSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type ModelSpec, modelSpecs, queueName, readSettings } from '@sluice/shared';
import {
  type App,
  type Env,
  faultyWorkerMain,
  gatewayMain,
  modelProcesses,
  post,
  Rig,
  request,
  root,
  until,
  workerMain,
} from './harness.js';

const TINY = join(root, 'tests/reference/models');
const tiny = (name: string, task: string, more = {}) => ({
  id: name,
  task,
  source: join(TINY, name),
  dtype: 'fp32',
  processes: 1,
  ...more,
});

/** The first model of a rig's `models.json`. */
const specOfFile = (env: Env): ModelSpec => modelSpecs(readSettings(env))[0];

let rig: Rig;
let key: string;
beforeAll(async () => {
  rig = await Rig.start();
  key = await rig.key();
});
afterAll(() => rig.close());

const models = async (url: string) =>
  (await request(`${url}/models`, { headers: { 'X-API-Key': key } })).body as Record<string, unknown>[];
const modelNamed = async (url: string, name: string) => (await models(url)).find(({ id }) => id === name);

describe('several models', () => {
  let url: string;
  let worker: App;
  let env: Env;
  beforeAll(async () => {
    env = {
      ...rig.models([
        tiny('bert-labels', 'text-classification', { aliases: ['sentiment', 'acme/sentiment'] }),
        tiny('bert-multi-label', 'text-classification'),
        tiny('bert-regression', 'text-classification'),
        tiny('roberta-nli', 'zero-shot-classification'),
        tiny('bert-entities', 'token-classification'),
        tiny('bert-mean', 'feature-extraction', { aliases: ['embed'] }),
        tiny('roberta-rank', 'text-ranking'),
      ]),
      MAX_TEXT_CHARS: '2000',
    };
    [{ url }, worker] = await Promise.all([rig.gateway(env), rig.worker(env)]);
  });

  const infer = (model: string, inputs: unknown, parameters?: object, more = {}) =>
    post(`${url}/models/${model}`, key, { inputs, ...(parameters ? { parameters } : {}), ...more });

  const LONG = 'the old bridge and the market '.repeat(30).trim();

  test('a worker loads the models one after the other, and says each', () => {
    const loaded = [...worker.output.matchAll(/"model":"([\w-]+)".*?"msg":"Model loaded"/g)];
    expect(loaded.map(([, model]) => model)).toEqual([
      'bert-labels',
      'bert-multi-label',
      'bert-regression',
      'roberta-nli',
      'bert-entities',
      'bert-mean',
      'roberta-rank',
    ]);
  });

  test('GET /models shows the task, the parameters and what the task knows of each', async () => {
    expect(await modelNamed(url, 'bert-mean')).toMatchObject({
      task: 'feature-extraction',
      aliases: ['embed'],
      dimensions: 32,
      labels: null,
      max_tokens: 48,
      drift: expect.any(Number),
      default: true,
      error: null,
      parameters: { properties: { dimensions: { type: 'integer' }, prompt_name: { type: 'string' } } },
    });
    expect(await modelNamed(url, 'bert-multi-label')).toMatchObject({
      labels: ['0', '1', '2', '3'],
      default: false,
    });
    expect(await modelNamed(url, 'bert-regression')).toMatchObject({ labels: ['LABEL_0'] });
  });

  test.each([
    ['one text for classification gives a list', 'bert-labels', 'fine', [[{ label: 'x', score: 0 }]]],
    ['a pair', 'bert-labels', { text: 'a', text_pair: 'b' }, [[{ label: 'x', score: 0 }]]],
    ['a list', 'bert-regression', ['a', 'b'], [[{ label: 'x', score: 0 }], [{ label: 'x', score: 0 }]]],
    ['one text for entities', 'bert-entities', 'Ágnes in Zürich', [{ entity_group: 'x', score: 0 }]],
    ['one text for a vector', 'bert-mean', 'fine', [0]],
    ['several vectors', 'bert-mean', ['a', 'b'], [[0], [0]]],
    ['texts to rank', 'roberta-rank', { query: 'q', texts: ['a', 'b'] }, [{ index: 0, score: 0 }]],
  ])('the shape of the answer to %s', async (_name, model, inputs, shape) => {
    const { status, body } = await infer(model, inputs);
    expect(status).toBe(200);
    const same = (value: unknown, like: unknown): boolean =>
      Array.isArray(like)
        ? Array.isArray(value) && value.length >= like.length && like.every((each, i) => same(value[i], each))
        : typeof like === 'object' && like !== null
          ? Object.entries(like).every(([name, part]) => same(Reflect.get(Object(value), name), part))
          : typeof value === typeof like;
    if (!same(body, shape)) throw new Error(JSON.stringify(body));
  });

  test('a model is found by its id and its aliases, also with a slash, encoded or not', async () => {
    const expected = (await infer('bert-labels', 'fine')).body;
    for (const name of ['sentiment', 'acme/sentiment', 'acme%2Fsentiment'])
      expect((await infer(name, 'fine')).body).toEqual(expected);
    const analyzed = await post(`${url}/analyze`, key, { text: 'fine', model: 'acme/sentiment', top_k: 3 });
    expect(analyzed.body.sentiment).toEqual(expected[0]);
    for (const name of ['nothing', 'acme', 'acme/sentiment/x', '__proto__']) {
      const { status, body } = await infer(name, 'fine');
      expect([status, body.error]).toEqual([404, expect.stringContaining('no configured model')]);
    }
  });

  test('the routes of the tutorial take text classifiers alone; a multi-label one gives its top label', async () => {
    const { status, body } = await post(`${url}/predict`, key, { text: 'fine', model: 'bert-mean' });
    expect([status, body.errors]).toEqual([
      422,
      [
        {
          pointer: '/model',
          detail: 'bert-mean is a model for feature-extraction; this route needs one for text-classification',
        },
      ],
    ]);
    const predicted = await post(`${url}/predict`, key, { text: 'fine', model: 'bert-multi-label' });
    const [best] = (await infer('bert-multi-label', 'fine')).body[0];
    expect([predicted.body.sentiment, predicted.body.confidence]).toEqual([best.label, best.score]);
  });

  test.each<[string, string, unknown, object | undefined, RegExp]>([
    ['no inputs', 'bert-labels', undefined, undefined, /\/inputs: /],
    ['an empty list', 'bert-labels', [], undefined, /\/inputs: The list is empty/],
    [
      '2,049 inputs',
      'bert-mean',
      Array(2_049).fill('a'),
      undefined,
      /\/inputs: The list has 2049 inputs; the maximum is 2048/,
    ],
    [
      'too many rows',
      'roberta-nli',
      Array(30).fill('a'),
      { candidate_labels: Array.from({ length: 100 }, (_, i) => `${i}`) },
      /needs 3000 rows/,
    ],
    [
      'a pair where a text belongs',
      'bert-mean',
      { text: 'a', text_pair: 'b' },
      undefined,
      /\/inputs: not a text/,
    ],
    [
      'a list of pairs where texts belong',
      'bert-mean',
      ['a', ['b', 'c']],
      undefined,
      /\/inputs\/1: not a text/,
    ],
    ['a text where a query belongs', 'roberta-rank', 'a', undefined, /\/inputs: not \{"query", "texts"\}/],
    ['no texts to rank', 'roberta-rank', { query: 'q', texts: [] }, undefined, /\/inputs\/texts: /],
    [
      'an empty text to rank',
      'roberta-rank',
      { query: 'q', texts: ['a', ' '] },
      undefined,
      /\/inputs\/texts\/1: The text is empty/,
    ],
    ['an empty text', 'bert-labels', ['a', '\n'], undefined, /\/inputs\/1: The text is empty/],
    [
      'a text that is too long',
      'bert-labels',
      'a'.repeat(2_001),
      undefined,
      /\/inputs: .* longer than 2000 characters/,
    ],
    ['half a surrogate pair', 'bert-labels', 'a\ud83d', undefined, /\/inputs: .*surrogate/],
    ['an unknown parameter', 'bert-labels', 'a', { topk: 1 }, /\/parameters\/topk: Unknown parameter/],
    ['a parameter of another task', 'bert-mean', 'a', { top_k: 1 }, /\/parameters\/top_k: Unknown parameter/],
    ['a parameter out of range', 'bert-labels', 'a', { top_k: 0 }, /\/parameters\/top_k: .*>=1/],
    [
      'a parameter of another type',
      'bert-mean',
      'a',
      { normalize: 'yes' },
      /\/parameters\/normalize: .*boolean/,
    ],
    [
      'more dimensions than there are',
      'bert-mean',
      'a',
      { dimensions: 33 },
      /\/parameters\/dimensions: The model has 32 dimensions/,
    ],
    [
      'an unknown prompt',
      'bert-mean',
      'a',
      { prompt_name: 'q' },
      /\/parameters\/prompt_name: The prompts of the model are: document, passage, query/,
    ],
    [
      'an unknown direction',
      'bert-mean',
      'a',
      { truncation_direction: 'up' },
      /\/parameters\/truncation_direction: .*"left"\|"right"/,
    ],
    ['no labels', 'roberta-nli', 'a', {}, /\/parameters\/candidate_labels: /],
    [
      'an empty list of labels',
      'roberta-nli',
      'a',
      { candidate_labels: [] },
      /\/parameters\/candidate_labels: It must be a list of 1 to 100 labels/,
    ],
    [
      '101 labels',
      'roberta-nli',
      'a',
      { candidate_labels: Array.from({ length: 101 }, (_, i) => `${i}`) },
      /\/parameters\/candidate_labels: It must be a list of 1 to 100 labels/,
    ],
    [
      'an empty label',
      'roberta-nli',
      'a',
      { candidate_labels: ['a', ' '] },
      /\/parameters\/candidate_labels\/1: A label is empty/,
    ],
    [
      'a label twice',
      'roberta-nli',
      'a',
      { candidate_labels: ['a', 'a'] },
      /\/parameters\/candidate_labels: A label is present twice/,
    ],
    [
      'a template without a placeholder',
      'roberta-nli',
      'a',
      { candidate_labels: ['a'], hypothesis_template: 'It is.' },
      /\/parameters\/hypothesis_template: It must contain \{\} once/,
    ],
    [
      'a template with two placeholders',
      'roberta-nli',
      'a',
      { candidate_labels: ['a'], hypothesis_template: '{} {}' },
      /\/parameters\/hypothesis_template: It must contain \{\} once/,
    ],
    [
      'labels that are too long',
      'roberta-nli',
      'a',
      { candidate_labels: ['a'.repeat(2_000)] },
      /\/parameters: The texts together have more than 2000 characters/,
    ],
    [
      'half a surrogate pair in a label',
      'roberta-nli',
      'a',
      { candidate_labels: ['\ud83d'] },
      /\/parameters: .*surrogate/,
    ],
  ])('%s is refused with a pointer to it', async (_name, model, inputs, parameters, reason) => {
    const { status, body, headers } = await infer(model, inputs, parameters);
    expect(status).toBe(422);
    expect(headers.get('content-type')).toMatch(/^application\/json/);
    expect(body.error).toMatch(reason);
  });

  test('an embedding model says how similar sentences are to another one', async () => {
    const { status, body } = await infer('bert-mean', {
      source_sentence: 'the old bridge',
      sentences: ['the old bridge', 'a letter'],
    });
    expect([status, body.length]).toEqual([200, 2]);
    expect(body[0]).toBeCloseTo(1, 5);
    expect(body[1]).toBeLessThan(body[0]);
  });

  test('parameters of embeddings may also be beside the inputs', async () => {
    const expected = (await infer('bert-mean', 'fine', { dimensions: 4 })).body;
    expect((await infer('bert-mean', 'fine', undefined, { dimensions: 4 })).body).toEqual(expected);
    const refused = await infer('bert-mean', LONG, undefined, { truncate: false });
    expect(refused.status).toBe(422);
  });

  test('a label that looks like a pattern of a replacement is taken as it is', async () => {
    const labels = ['$&', '$1', '{}', '\\'];
    const { status, body } = await infer('roberta-nli', 'fine', { candidate_labels: labels });
    expect(status).toBe(200);
    expect(body.map(({ label }: { label: string }) => label).sort()).toEqual([...labels].sort());
  });

  test('an input that is too long is cut and counted, or refused', async () => {
    const cut = await infer('bert-mean', [LONG, 'short', LONG]);
    expect([cut.status, cut.headers.get('x-truncated-inputs')]).toEqual([200, '2']);
    expect((await infer('bert-mean', 'short')).headers.get('x-truncated-inputs')).toBeNull();
    const refused = await infer('bert-mean', ['short', LONG], { truncate: false });
    expect([refused.status, refused.body.error]).toEqual([
      422,
      'An input is longer than the 48 tokens that the model can read, and "truncate" is false',
    ]);
    expect((await infer('bert-mean', 'short', { truncate: false })).status).toBe(200);
    // The other side of a text is what is left of it.
    const [left, right] = await Promise.all([
      infer('bert-mean', `window ${LONG}`, { truncation_direction: 'right' }),
      infer('bert-mean', `window ${LONG}`, { truncation_direction: 'left' }),
    ]);
    expect(left.body).not.toEqual(right.body);
    const same = await Promise.all(
      ['window', 'singer'].map((word) =>
        infer('bert-mean', `${word} ${LONG}`, { truncation_direction: 'left' }),
      ),
    );
    expect(same[0]?.body).toEqual(same[1]?.body);
  });

  test('a request with more than 128 rows is answered like its inputs alone', async () => {
    const inputs = Array.from({ length: 300 }, (_, i) => `text ${i} of a letter`);
    const { status, body } = await infer('bert-mean', inputs);
    expect([status, body.length]).toEqual([200, 300]);
    for (const i of [0, 150, 299]) expect(body[i]).toEqual((await infer('bert-mean', inputs[i])).body);
  });

  test('a request in the bulk lane ends at its own deadline, and later ones are answered', async () => {
    const inputs = Array.from({ length: 2_048 }, (_, i) => `${'word '.repeat(30)}${i}`);
    const late = await infer('bert-mean', inputs, undefined, { timeout_seconds: 0.1 });
    expect([408, 422, 503]).toContain(late.status);
    expect((await infer('bert-mean', 'fine')).status).toBe(200);
  });

  test('an item with 100 labels is answered like one with few', async () => {
    const labels = Array.from({ length: 100 }, (_, i) => `label number ${i}`);
    const alone = await infer('roberta-nli', 'a letter', { candidate_labels: labels, multi_label: true });
    expect(alone.body).toHaveLength(100);
    // The scores of labels that are judged by themselves do not depend on the others.
    const few = await infer('roberta-nli', 'a letter', {
      candidate_labels: labels.slice(0, 2),
      multi_label: true,
    });
    for (const { label, score } of few.body)
      expect(alone.body.find((each: { label: string }) => each.label === label).score).toBeCloseTo(score, 5);
  });

  const get = (path: string, headers = {}) =>
    request(`${url}${path}`, { headers: { 'X-API-Key': key, ...headers } });
  const ended = (id: string) =>
    until('the job ended', async () => (await get(`/jobs/${id}`)).body.status === 'completed');
  const submit = async (body: object) => {
    const { status, body: job } = await post(`${url}/analyze_batch`, key, body);
    if (status !== 202) throw new Error(JSON.stringify(job));
    await ended(job.job_id);
    return job.job_id as string;
  };

  test('a batch of vectors gives what each text gives alone, as numbers or base64; they are stored as raw float32', async () => {
    const texts = Array.from({ length: 70 }, (_, i) => `letter ${i}`);
    const id = await submit({ texts, model: 'embed', parameters: { dimensions: 8 } });
    const { results } = (await get(`/jobs/${id}/results`)).body;
    expect(results.map(({ index }: { index: number }) => index)).toEqual(texts.map((_, i) => i));
    const alone = await infer('embed', texts[40], { dimensions: 8 });
    expect(results[40]).toEqual({
      index: 40,
      text: 'letter 40',
      output: alone.body,
      tokens: expect.any(Number),
    });
    const bytes = (await get(`/jobs/${id}/results?encoding_format=base64`)).body.results[40].output;
    const floats = new Float32Array(new Uint8Array(Buffer.from(bytes, 'base64')).buffer);
    expect(Array.from(floats)).toEqual(alone.body.map(Math.fround));
    const streamed = await get(`/jobs/${id}/results?encoding_format=base64`, {
      Accept: 'application/x-ndjson',
    });
    expect(JSON.parse(streamed.body.split('\n')[40]).output).toBe(bytes);
    const chunk = await rig.redis.hgetBuffer(`{sluice}:job:${id}:results`, '1');
    expect(chunk?.includes(Buffer.from(floats.buffer))).toBe(true);
  });

  test('a batch takes inputs of other shapes, and its results show them', async () => {
    const inputs = [
      { query: 'a bridge', texts: ['old', 'new', 'market'] },
      { query: 'a letter', texts: ['answer'] },
    ];
    const id = await submit({ inputs, model: 'roberta-rank', parameters: { top_n: 2 } });
    const { results } = (await get(`/jobs/${id}/results`)).body;
    const alone = await infer('roberta-rank', inputs, { top_n: 2 });
    expect(results.map(({ input }: { input: unknown }) => input)).toEqual(inputs);
    expect(results.map(({ output }: { output: unknown }) => output)).toEqual(alone.body);
  });

  test('chunks are cut by rows, and each page of results finds its items', async () => {
    // Rows of an item vary: 1 to 100, so that chunks have various numbers of items.
    const inputs = Array.from({ length: 40 }, (_, i) => ({
      query: `query ${i}`,
      texts: Array.from({ length: 1 + ((i * 37) % 100) }, (_, j) => `text ${j}`),
    }));
    const lines = [
      { batch: { model: 'roberta-rank', parameters: { top_n: 1, raw_scores: true } } },
      ...inputs.map((input, i) => ({ id: `item-${i}`, input })),
    ];
    const accepted = await request(`${url}/analyze_batch`, {
      method: 'POST',
      headers: { 'X-API-Key': key, 'Content-Type': 'application/x-ndjson' },
      body: lines.map((line) => JSON.stringify(line)).join('\n'),
    });
    expect(accepted.status).toBe(202);
    const id = accepted.body.job_id;
    await ended(id);
    const sizes = Object.values(await rig.redis.hgetall(`{sluice}:job:${id}:items`)).map((text) =>
      JSON.parse(text).reduce(
        (sum: number, { input }: (typeof lines)[1] & { input: { texts: [] } }) => sum + input.texts.length,
        0,
      ),
    );
    expect(sizes.length).toBeGreaterThan(5);
    for (const size of sizes) expect(size).toBeLessThanOrEqual(256);
    const all = (await get(`/jobs/${id}/results?limit=1000`)).body.results;
    expect(all.map(({ id: own }: { id: string }) => own)).toEqual(inputs.map((_, i) => `item-${i}`));
    const paged = [];
    for (let cursor = ''; cursor !== null; ) {
      const { body } = await get(`/jobs/${id}/results?limit=7${cursor && `&cursor=${cursor}`}`);
      paged.push(...body.results);
      cursor = body.next_cursor;
    }
    expect(paged).toEqual(all);
  });

  test('an item of a batch that is too long, and must not be cut, gets its own error', async () => {
    const id = await submit({ texts: ['short', LONG], parameters: { truncate: false } });
    const { results } = (await get(`/jobs/${id}/results`)).body;
    expect(results[0]).toMatchObject({ tokens: expect.any(Number), sentiment: expect.any(String) });
    expect(results[1].error.code).toBe('input_too_long');
    const cut = await submit({ texts: ['short', LONG] });
    const shown = (await get(`/jobs/${cut}/results`)).body.results;
    expect(shown.map(({ truncated }: { truncated?: true }) => truncated)).toEqual([undefined, true]);
  });

  test.each<[string, object, string]>([
    ['texts and inputs', { texts: ['a'], inputs: ['a'] }, '/inputs'],
    ['neither', { model: 'bert-mean' }, '/texts'],
    ['an input of another shape', { model: 'roberta-rank', inputs: ['a'] }, '/inputs/0'],
    ['texts for a task that takes none', { model: 'roberta-rank', texts: ['a'] }, '/texts/0'],
    ['an unknown model', { model: 'nothing', texts: ['a'] }, '/model'],
    ['an unknown parameter', { texts: ['a'], parameters: { label: 1 } }, '/parameters/label'],
    ['no labels for zero-shot', { model: 'roberta-nli', texts: ['a'] }, '/parameters/candidate_labels'],
  ])('a batch with %s is refused with a pointer to it', async (_name, body, pointer) => {
    const { status, body: problem } = await post(`${url}/analyze_batch`, key, body);
    expect([status, problem.errors?.[0].pointer]).toEqual([422, pointer]);
  });

  test.each([
    ['its first line', '{"batch": {"model": "nothing"}}'],
    ['its model', '{"batch": {"model": "roberta-rank"}}'],
    ['its parameters', '{"batch": {"parameters": {"label": 1}}}'],
    ['its first item', '{"id": [], "text": "a"}'],
  ])('a client that sends its whole upload first reads why %s is refused', async (_, first) => {
    const lines = `${first}\n${'"a text"\n'.repeat(1_500_000)}`;
    const { hostname, port } = new URL(url);
    const socket = connect(Number(port), hostname);
    const head =
      `POST /analyze_batch HTTP/1.1\r\nHost: x\r\nX-API-Key: ${key}\r\nContent-Type: application/x-ndjson\r\n` +
      `Content-Length: ${Buffer.byteLength(lines)}\r\n\r\n`;
    const startMs = performance.now();
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject);
      socket.write(head + lines, () => resolve());
    });
    const [answer] = await once(socket, 'data');
    expect(String(answer)).toMatch(/^HTTP\/1\.1 422 /);
    // The limit for silence is 30 s.
    expect(performance.now() - startMs).toBeLessThan(15_000);
    socket.destroy();
  });

  test('the replies that a gateway has read do not stay in Redis', async () => {
    for (let i = 0; i < 150; i++) expect((await infer('bert-mean', 'fine')).status).toBe(200);
    for (const stream of await rig.redis.keys('{sluice}:replies:*'))
      expect(await rig.redis.xlen(stream)).toBeLessThan(100);
  });

  test('the same Idempotency-Key with other parameters is another body', async () => {
    const send = (parameters: object) =>
      request(`${url}/analyze_batch`, {
        method: 'POST',
        headers: { 'X-API-Key': key, 'Content-Type': 'application/json', 'Idempotency-Key': 'parameters' },
        body: JSON.stringify({ texts: ['a'], parameters }),
      });
    const [first, second, third] = [
      await send({ top_k: 2 }),
      await send({ top_k: 3 }),
      await send({ top_k: 2 }),
    ];
    expect([first.status, second.status, third.status]).toEqual([202, 422, 202]);
    expect(third.body.job_id).toBe(first.body.job_id);
  });

  test('a gateway does not use a worker whose configuration of a model differs, and both log it', async () => {
    const other = {
      ...env,
      ...rig.models([
        tiny('bert-labels', 'text-classification', { max_tokens: 32 }),
        tiny('bert-mean', 'feature-extraction'),
      ]),
    };
    const { app, url: elsewhere } = await rig.gateway(other);
    expect((await modelNamed(elsewhere, 'bert-labels'))?.workers).toBe(0);
    expect((await modelNamed(elsewhere, 'bert-mean'))?.workers).toBe(1);
    const refused = await post(`${elsewhere}/models/bert-labels`, key, { inputs: 'fine' });
    expect([refused.status, refused.body.error]).toEqual([503, 'No live worker serves this model']);
    expect((await post(`${elsewhere}/models/bert-mean`, key, { inputs: 'fine' })).status).toBe(200);
    expect(app.output).toContain('A worker is not used for this model: its configuration differs');
    await until('the worker says so', () =>
      worker.output.includes(
        'A gateway does not use this worker for this model: their configurations differ',
      ),
    );
    await app.stop();
  });
});

describe('models that are not as usual', () => {
  /** A copy of a tiny model that is changed. */
  function variant(name: string, from: string, change: (folder: string) => void): string {
    const folder = join(rig.folder, 'variants', name);
    mkdirSync(folder, { recursive: true });
    cpSync(join(TINY, from), folder, { recursive: true });
    change(folder);
    return folder;
  }
  const edit = (file: string, change: (value: Record<string, unknown>) => void) => (folder: string) => {
    const path = join(folder, file);
    const value = JSON.parse(readFileSync(path, 'utf8'));
    change(value);
    writeFileSync(path, JSON.stringify(value));
  };
  const remove = (file: string) => (folder: string) => rmSync(join(folder, file), { recursive: true });
  const entry = (id: string, source: string, more = {}) => ({
    id,
    task: 'text-classification',
    source,
    dtype: 'fp32',
    processes: 1,
    ...more,
  });

  test('they are served, or named with the cause, and do not keep the others from serving', async () => {
    const good: Record<string, object> = {
      'no-maximum': entry(
        'no-maximum',
        variant(
          'no-maximum',
          'bert-labels',
          edit('tokenizer_config.json', (c) => delete c.model_max_length),
        ),
      ),
      'huge-maximum': entry(
        'huge-maximum',
        variant(
          'huge-maximum',
          'bert-labels',
          edit('tokenizer_config.json', (c) => {
            c.model_max_length = 1e30;
          }),
        ),
      ),
      roberta: entry('roberta', join(TINY, 'roberta-rank')),
      less: entry('less', join(TINY, 'bert-labels'), { max_tokens: 20 }),
      'no-tokenizer-config': entry(
        'no-tokenizer-config',
        variant('no-tokenizer-config', 'bert-labels', remove('tokenizer_config.json')),
      ),
      external: entry('external', join(TINY, 'bert-external')),
      'one-row': entry('one-row', join(TINY, 'bert-one-row')),
      'no-pad': entry(
        'no-pad',
        variant('no-pad', 'bert-labels', (folder) => {
          edit('tokenizer_config.json', (c) => delete c.pad_token)(folder);
          edit('config.json', (c) => delete c.pad_token_id)(folder);
          writeFileSync(
            join(folder, 'tokenizer.json'),
            readFileSync(join(folder, 'tokenizer.json'), 'utf8').replaceAll('[PAD]', '[UNUSED]'),
          );
        }),
      ),
    };
    const bad: Record<string, [object, RegExp]> = {
      source_not_found: [entry('x', '/no/such/folder'), /there is no folder \/no\/such\/folder/],
      dtype_not_found: [
        entry('x', join(TINY, 'bert-labels'), { dtype: 'q8' }),
        /no weights of dtype q8 \(onnx\/model_quantized\.onnx\); set "dtype" to one of: fp32/,
      ],
      file_missing: [
        entry('x', variant('no-tokenizer', 'bert-labels', remove('tokenizer.json'))),
        /no-tokenizer\/tokenizer\.json is missing/,
      ],
      file_corrupt: [
        entry(
          'x',
          variant('html', 'bert-labels', (folder) => writeFileSync(join(folder, 'config.json'), '<html>')),
        ),
        /html\/config\.json is not valid JSON/,
      ],
      max_tokens_too_large: [
        entry('x', join(TINY, 'bert-labels'), { max_tokens: 65 }),
        /max_tokens: 65 is more than the 64 positions/,
      ],
      not_supported: [
        entry('x', join(TINY, 'bert-labels'), { task: 'text-ranking' }),
        /it has 3 outputs; text-ranking needs a model with one/,
      ],
      settings_needed: [
        entry(
          'x',
          variant('bare', 'bert-mean', (folder) => {
            remove('modules.json')(folder);
            remove('1_Pooling')(folder);
          }),
          { task: 'feature-extraction' },
        ),
        /set "pooling" \(mean, cls, max, last_token\) and "normalize"/,
      ],
      not_enough_memory: [
        entry(
          'x',
          variant('huge', 'bert-external', (folder) =>
            truncateSync(join(folder, 'onnx/model.onnx_data'), 2e12),
          ),
        ),
        /a process needs about \d+ MB, and \d+ MB are available/,
      ],
      load_failed: [
        entry(
          'x',
          variant('no-graph', 'bert-labels', (folder) =>
            writeFileSync(join(folder, 'onnx/model.onnx'), 'this is no graph'),
          ),
        ),
        /no-graph/,
      ],
    };
    const env = rig.models([
      entry('labels-one-row', join(TINY, 'bert-one-row'), { task: 'zero-shot-classification' }),
      ...Object.values(good),
      ...Object.entries(bad).map(([code, [model]]) => ({ ...model, id: `bad-${code}` })),
    ]);
    const [{ url }, worker] = await Promise.all([rig.gateway(env), rig.worker(env)]);
    const shown = new Map((await models(url)).map((model) => [model.id, model]));
    for (const [code, [, reason]] of Object.entries(bad)) {
      expect(shown.get(`bad-${code}`)).toMatchObject({ error: code, workers: 0 });
      const line =
        worker.output.split('\n').find((each) => each.includes(`The model bad-${code} cannot be loaded`)) ??
        '';
      expect(JSON.parse(line).msg).toMatch(reason);
      expect(line).not.toMatch(/local_files_only|\[\s*"/);
      const inputs = code === 'not_supported' ? { query: 'a', texts: ['b'] } : 'fine';
      expect((await post(`${url}/models/bad-${code}`, key, { inputs })).status).toBe(503);
    }
    // Two positions of RoBERTa's table are not used.
    for (const [id, maximum] of Object.entries({
      'no-maximum': 64,
      'huge-maximum': 64,
      roberta: 64,
      less: 20,
    }))
      expect(shown.get(id)).toMatchObject({ max_tokens: maximum, error: null });
    for (const [id, batching] of Object.entries({ external: true, 'one-row': false, 'no-pad': false }))
      expect(shown.get(id)).toMatchObject({ batching });
    // Also if an input has several rows.
    for (const id of ['one-row', 'labels-one-row'])
      expect(shown.get(id)).toMatchObject({ drift: null, batching: false, error: null });
    const long = 'the old bridge '.repeat(50);
    for (const id of Object.keys(good)) {
      const answers = await Promise.all(
        ['fine', 'a longer text than that', long].map((inputs) =>
          post(`${url}/models/${id}`, key, { inputs }),
        ),
      );
      expect(answers.map(({ status, headers }) => [status, headers.get('x-truncated-inputs')])).toEqual([
        [200, null],
        [200, null],
        [200, '1'],
      ]);
    }
    // The same graph with its weights beside it, or without the tokenizer's settings, answers the same.
    const [one, other] = await Promise.all(
      ['no-tokenizer-config', 'huge-maximum'].map((id) =>
        post(`${url}/models/${id}`, key, { inputs: 'fine' }),
      ),
    );
    expect(one?.body).toEqual(other?.body);
  });

  test('a slow model is loaded with a warning, and no process is killed while it serves', async () => {
    // Twice the stall budget, and a fifth of the timeout.
    writeFileSync(join(rig.folder, 'slow'), '300');
    const spec = entry('slow', join(TINY, 'bert-labels'), { stall_seconds: 0.15, timeout_seconds: 2 });
    const env = rig.models([spec]);
    try {
      const [{ url }, worker] = await Promise.all([rig.gateway(env), rig.worker(env, faultyWorkerMain)]);
      expect(worker.output).toMatch(
        /Slow model: .*Raise timeout_seconds \(REQUEST_TIMEOUT_SECONDS\), lower max_tokens/,
      );
      const before = await modelProcesses(worker);
      for (const inputs of ['fine', 'the old bridge '.repeat(5)])
        expect((await post(`${url}/models/slow`, key, { inputs })).status).toBe(200);
      const { body } = await post(`${url}/analyze_batch`, key, { texts: ['a', 'b', 'c'] });
      await until('the job ended', async () => {
        const job = await request(`${url}/jobs/${body.job_id}`, { headers: { 'X-API-Key': key } });
        return job.body.completed === 3;
      });
      expect(await modelProcesses(worker)).toEqual(before);
      expect(worker.output).not.toContain('it hung');
    } finally {
      rmSync(join(rig.folder, 'slow'));
    }
  });

  test('items with many rows do not hold up others, and no run of them is killed as hung', async () => {
    writeFileSync(join(rig.folder, 'slow'), '100');
    const spec = entry('labels', join(TINY, 'roberta-nli'), {
      task: 'zero-shot-classification',
      stall_seconds: 0.3,
      timeout_seconds: 30,
    });
    const env = rig.models([spec]);
    try {
      const [{ url }, worker] = await Promise.all([rig.gateway(env), rig.worker(env, faultyWorkerMain)]);
      const send = (labels: number) =>
        post(`${url}/models/labels`, key, {
          inputs: 'a letter',
          parameters: { candidate_labels: Array.from({ length: labels }, (_, i) => `${i}`) },
        });
      const done: number[] = [];
      // Thirteen micro-batches each.
      const large = Array.from({ length: 2 }, () => send(100).then(({ status }) => done.push(status, 100)));
      await until('they run', async () => {
        const count = await rig.redis.llen(`{sluice}:${queueName(specOfFile(env), 'interactive')}:active`);
        return count > 0;
      });
      const { status } = await send(1);
      expect([status, done]).toEqual([200, []]);
      await Promise.all(large);
      expect(done.filter((each) => each === 200)).toHaveLength(2);
      expect(worker.output).not.toContain('it hung');
    } finally {
      rmSync(join(rig.folder, 'slow'));
    }
  });

  test('a module of sentence-transformers that Sluice does not have is refused', async () => {
    const dense = variant('dense', 'bert-mean', (folder) => {
      const path = join(folder, 'modules.json');
      const modules = JSON.parse(readFileSync(path, 'utf8'));
      modules[2].type = 'sentence_transformers.models.Dense';
      writeFileSync(path, JSON.stringify(modules));
    });
    const worker = rig.spawn(workerMain, rig.models([entry('dense', dense, { task: 'feature-extraction' })]));
    expect(await worker.exit()).toBe(1);
    expect(worker.output).toMatch(/The model dense cannot be loaded: .*ask for the module Dense/);
  });

  test('a model is served as soon as it is loaded, and an error is shown before the worker is ready', async () => {
    const env = rig.models([
      entry('first', join(TINY, 'bert-labels')),
      entry('broken', '/no/such/folder'),
      entry('last', join(TINY, 'bert-regression')),
    ]);
    const { url } = await rig.gateway(env);
    // Its measurement takes seconds.
    writeFileSync(join(rig.folder, 'slow'), '400');
    try {
      const worker = rig.spawn(faultyWorkerMain, env);
      await until('the first model is loaded', () => worker.output.includes('"Model loaded"'));
      rmSync(join(rig.folder, 'slow'));
      expect((await models(url)).map(({ workers, error }) => [workers, error])).toEqual([
        [1, null],
        [0, 'source_not_found'],
        [0, null],
      ]);
      expect(worker.output).not.toContain('Worker ready');
      expect((await post(`${url}/models/first`, key, { inputs: 'fine' })).status).toBe(200);
      await worker.ready();
      expect((await post(`${url}/models/last`, key, { inputs: 'fine' })).status).toBe(200);
    } finally {
      rmSync(join(rig.folder, 'slow'), { force: true });
    }
  });

  test('WORKER_MODELS divides the models between workers', async () => {
    const env = rig.models([
      entry('one', join(TINY, 'bert-labels')),
      entry('two', join(TINY, 'bert-regression')),
    ]);
    const { url } = await rig.gateway(env);
    const first = await rig.worker({ ...env, WORKER_MODELS: 'one' });
    expect((await models(url)).map(({ workers }) => workers)).toEqual([1, 0]);
    expect((await post(`${url}/models/two`, key, { inputs: 'fine' })).status).toBe(503);
    await rig.worker({ ...env, WORKER_MODELS: 'two' });
    for (const id of ['one', 'two'])
      expect((await post(`${url}/models/${id}`, key, { inputs: 'fine' })).status).toBe(200);
    await first.stop();
    const wrong = rig.spawn(workerMain, { ...env, WORKER_MODELS: 'three' });
    expect(await wrong.exit()).toBe(78);
    expect(wrong.output).toContain('WORKER_MODELS: \\"three\\" is not configured; there are: one, two');
  });

  test('without a worker a text is not tokenized, and a wrong parameter still gets 422', async () => {
    const env = rig.models([entry('mean', join(TINY, 'bert-mean'), { task: 'feature-extraction' })]);
    const { url } = await rig.gateway(env);
    const worker = await rig.worker(env);
    const tokenize = () => post(`${url}/models/mean/tokenize`, key, { inputs: 'fine' });
    expect((await tokenize()).status).toBe(200);
    await worker.stop();
    await until('no worker is left', async () => (await models(url))[0]?.workers === 0);
    const { status, body } = await tokenize();
    expect([status, body.error]).toEqual([503, 'No live worker serves this model']);
    const wrong = await post(`${url}/models/mean`, key, { inputs: 'fine', parameters: { bogus: 1 } });
    expect(wrong.status).toBe(422);
  });

  test('a job is answered by one configuration of its model, or fails when no gateway has it any more', async () => {
    const spec = entry('changed', join(TINY, 'bert-labels'));
    const [before, after] = [rig.models([spec]), rig.models([{ ...spec, max_tokens: 16 }])];
    const old = await rig.gateway(before);
    const submit = async () => {
      const { body } = await post(`${old.url}/analyze_batch`, key, { texts: ['a', 'b'], model: 'changed' });
      return (url: string) =>
        request(`${url}/jobs/${body.job_id}`, { headers: { 'X-API-Key': key } }).then((job) => job.body);
    };
    const [first, second] = [await submit(), await submit()];
    // A worker and a gateway with the new configuration do nothing about it.
    const next = await rig.gateway(after);
    const other = await rig.worker(after);
    const { body } = await post(`${next.url}/analyze_batch`, key, { texts: ['c'], model: 'changed' });
    await until('a job of the new configuration ended', async () => {
      const job = await request(`${next.url}/jobs/${body.job_id}`, { headers: { 'X-API-Key': key } });
      return job.body.status === 'completed';
    });
    expect(await first(next.url)).toMatchObject({ status: 'queued', completed: 0 });
    const worker = await rig.worker(before);
    await until('the first job ended', async () => (await first(next.url)).status === 'completed');
    await until('the second job ended', async () => (await second(next.url)).status === 'completed');
    await worker.stop();

    // A paused gateway does not announce its configuration; its job waits for a while.
    const third = await submit();
    const missing = async () => (await rig.redis.keys('{sluice}:missing:changed:*')).length > 0;
    old.app.child.kill('SIGSTOP');
    await until('its configuration is missing', missing);
    expect(await third(next.url)).toMatchObject({ status: 'queued' });
    old.app.child.kill('SIGCONT');
    await until('its configuration is there again', async () => !(await missing()));
    expect(await third(next.url)).toMatchObject({ status: 'queued' });
    await old.app.stop();
    await until('the third job ended', async () => (await third(next.url)).status === 'failed', 60_000);
    expect(await third(next.url)).toMatchObject({
      completed: 0,
      error: 'The configuration of the model was changed',
    });
    expect(other.child.exitCode).toBeNull();
  }, 120_000);

  test('a models.json with an error stops gateway and worker with the line, and status 78', async () => {
    const env = rig.models([{ id: 'a', task: 'text-classification', dtyp: 'q8' }]);
    for (const main of [workerMain, gatewayMain]) {
      const app = rig.spawn(main, env);
      expect(await app.exit()).toBe(78);
      expect(app.output).toMatch(
        /line 1: \\"models\.0\.dtyp\\": unknown field; allowed are id, aliases, task/,
      );
    }
  });
});
