import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type Answer, post, Rig, request, root } from './harness.js';

const tiny = (name: string, task: string, more = {}) => ({
  id: name,
  task,
  source: join(root, 'tests/reference/models', name),
  dtype: 'fp32',
  processes: 1,
  ...more,
});

/** Of any route. */
type Body = Answer['body'];

let rig: Rig;
let key: string;
let url: string;
beforeAll(async () => {
  rig = await Rig.start();
  const env = {
    ...rig.models([
      tiny('bert-mean', 'feature-extraction', {
        aliases: ['text-embedding-3-small', 'acme', 'acme/vectors'],
      }),
      tiny('bert-labels', 'text-classification'),
      tiny('bert-multi-label', 'text-classification', { aliases: ['acme/embed'], threshold: 0.45 }),
      tiny('roberta-rank', 'text-ranking'),
      tiny('bert-entities', 'token-classification'),
    ]),
    MAX_INPUTS: '64',
    MAX_BODY_BYTES: '65536',
  };
  [{ url }, key] = await Promise.all([rig.gateway(env), rig.key(), rig.worker(env)]);
});
afterAll(() => rig.close());

const send = (path: string, body: unknown) => post(`${url}${path}`, key, body);
const get = (path: string) => request(`${url}${path}`, { headers: { 'X-API-Key': key } });
/** The outputs of a model for inputs, in the Hugging Face shape, which tests/reference compares with Python. */
async function outputsOf(model: string, inputs: readonly unknown[], parameters = {}): Promise<Body[]> {
  const { status, body } = await send(`/models/${model}`, { inputs, parameters });
  expect(status).toBe(200);
  return body;
}

const TEXTS = ['A fine day', 'Ágnes lives in Zürich', '不错'];
const LONG = 'the old bridge and the market '.repeat(30).trim();

/** Each number rounded to float32, as base64 and decimals give it back. */
const float32 = (numbers: readonly number[]) => Array.from(Float32Array.from(numbers));
const unpacked = (base64: string) =>
  Array.from(new Float32Array(new Uint8Array(Buffer.from(base64, 'base64')).buffer));

describe('text-embeddings-inference', () => {
  test('/embed gives the vectors of the model, normalized unless asked otherwise, also for one text', async () => {
    const expected = await outputsOf('bert-mean', TEXTS, { normalize: true });
    expect((await send('/embed', { inputs: TEXTS })).body).toEqual(expected);
    expect((await send('/models/acme/vectors/embed', { inputs: TEXTS[0] })).body).toEqual([expected[0]]);
    const raw = await outputsOf('bert-mean', TEXTS, { normalize: false, dimensions: 5 });
    expect((await send('/embed', { inputs: TEXTS, normalize: false, dimensions: 5 })).body).toEqual(raw);
  });

  test('/embed_all gives a vector for each token, which pool to the one of /embed', async () => {
    const { body } = await send('/embed_all', { inputs: TEXTS });
    const tokens = (await send('/tokenize', { inputs: TEXTS })).body;
    const pooled = await outputsOf('bert-mean', TEXTS, { normalize: false });
    expect(body.map((vectors: unknown[]) => vectors.length)).toEqual(tokens.map((each: []) => each.length));
    for (const [i, vectors] of body.entries())
      for (const [j, value] of pooled[i].entries()) {
        const mean =
          vectors.reduce((sum: number, vector: number[]) => sum + (vector[j] ?? 0), 0) / vectors.length;
        expect(mean).toBeCloseTo(value, 5);
      }
    expect((await send('/embed_all', { inputs: Array(33).fill('a') })).status).toBe(413);
  });

  test('/predict takes a text, a pair, and a list of both', async () => {
    const of = async (input: unknown, parameters = {}) =>
      (await outputsOf('bert-labels', [input], parameters))[0];
    expect((await send('/predict', { inputs: 'a' })).body).toEqual(await of('a'));
    expect((await send('/predict', { inputs: ['a', 'b'] })).body).toEqual(
      await of({ text: 'a', text_pair: 'b' }),
    );
    expect((await send('/predict', { inputs: [['a'], ['b', 'c']], raw_scores: true })).body).toEqual([
      await of('a', { function_to_apply: 'none' }),
      await of({ text: 'b', text_pair: 'c' }, { function_to_apply: 'none' }),
    ]);
    for (const inputs of [['a', 'b', 'c'], [], [['a'], 'b'], [[]], 7, { a: 1 }]) {
      const { status, body } = await send('/predict', { inputs });
      expect([inputs, status, body.error_type]).toEqual([inputs, 413, 'validation']);
    }
  });

  test('/rerank gives the ranks of the model, with the texts if asked', async () => {
    const [expected] = await outputsOf('roberta-rank', [{ query: 'fine', texts: TEXTS }], {
      raw_scores: true,
    });
    const { body } = await send('/rerank', {
      query: 'fine',
      texts: TEXTS,
      raw_scores: true,
      return_text: true,
    });
    expect(body).toEqual(
      expected.map(({ index, score }: { index: number; score: number }) => ({
        index,
        text: TEXTS[index],
        score,
      })),
    );
  });

  test('/similarity gives cosines; a sentence has similarity 1 with itself', async () => {
    const [one, other] = (await outputsOf('bert-mean', [TEXTS[0], TEXTS[1]], {
      normalize: true,
    })) as number[][];
    const cosine = (one ?? []).reduce((sum, value, i) => sum + value * (other?.[i] ?? 0), 0);
    const { body } = await send('/similarity', {
      inputs: { source_sentence: TEXTS[0], sentences: [TEXTS[0], TEXTS[1]] },
    });
    expect(body).toEqual([expect.closeTo(1, 5), expect.closeTo(cosine, 5)]);
  });

  test('/tokenize shows where each token is, in characters, and uses no slot', async () => {
    const before = (await get('/me')).body.limits[0].remaining;
    const [tokens] = (await send('/tokenize', { inputs: '👍 Ágnes' })).body;
    expect(tokens.at(0)).toMatchObject({ text: '[CLS]', special: true, start: null, stop: null });
    const inner = tokens.slice(1, -1);
    expect(
      inner.every(
        ({ text, start, stop }: Body) => Array.from('👍 Ágnes').slice(start, stop).join('') === text,
      ),
    ).toBe(true);
    expect(inner.at(-1).stop).toBe(7);
    expect((await send('/tokenize', { inputs: 'a', add_special_tokens: false })).body[0]).toHaveLength(1);
    expect((await get('/me')).body.limits[0].remaining).toBe(before);
  });

  test('/info tells of the first model, or of the one in the path', async () => {
    expect((await get('/info')).body).toMatchObject({
      model_id: 'bert-mean',
      model_type: { embedding: { pooling: 'mean' } },
      max_input_length: 48,
      max_client_batch_size: 64,
    });
    expect((await get('/models/bert-labels/info')).body.model_type.classifier.id2label).toEqual({
      0: 'bad',
      1: 'so-so',
      2: 'good',
    });
    expect((await get('/models/roberta-rank/info')).body.model_type).toHaveProperty('reranker');
  });

  test('POST / does what the first model does, or ranks', async () => {
    expect((await send('/', { inputs: TEXTS })).body).toEqual((await send('/embed', { inputs: TEXTS })).body);
    const ranks = { query: 'fine', texts: TEXTS };
    expect((await send('/', ranks)).body).toEqual((await send('/rerank', ranks)).body);
    expect((await send('/', {})).body).toMatchObject({ error_type: 'validation' });
  });

  test.each([
    ['a text that is too long', '/embed', { inputs: LONG }, 413, 'validation', /longer than the 48 tokens/],
    [
      'one of many texts that is empty',
      '/embed',
      { inputs: ['a', ' '] },
      413,
      'validation',
      /inputs\/1: .*empty/,
    ],
    ['a request without texts', '/embed', { inputs: [] }, 413, 'validation', /empty/],
    ['too many texts', '/embed', { inputs: Array(65).fill('a') }, 413, 'validation', /maximum is 64/],
    ['token ids', '/embed', { inputs: [[1, 2]] }, 413, 'validation', /Token ids/],
    [
      'too many characters to tokenize',
      '/tokenize',
      { inputs: Array(11).fill('a'.repeat(9_999)) },
      413,
      'validation',
      /100000 characters/,
    ],
    ['an unknown prompt', '/embed', { inputs: 'a', prompt_name: 'x' }, 413, 'validation', /prompt/],
    ['too many dimensions', '/embed', { inputs: 'a', dimensions: 33 }, 413, 'validation', /32 dimensions/],
    [
      'a model for another task',
      '/models/bert-labels/embed',
      { inputs: 'a' },
      424,
      'backend',
      /feature-extraction/,
    ],
    ['an unknown model', '/models/nothing/embed', { inputs: 'a' }, 404, 'validation', /"nothing"/],
    [
      'a prompt for a model without any',
      '/models/bert-labels/tokenize',
      { inputs: 'a', prompt_name: 'x' },
      413,
      'validation',
      /no prompts/,
    ],
  ])(
    '%s is refused with the status and body of text-embeddings-inference',
    async (_name, path, body, status, type, error) => {
      const answer = await send(path, body);
      expect([answer.status, answer.body]).toEqual([
        status,
        { error: expect.stringMatching(error), error_type: type },
      ]);
    },
  );

  test('a vector for each token is refused where there would be too many numbers, and in jobs', async () => {
    const inputs = Array(40).fill('a '.repeat(4_000));
    const many = await send('/models/bert-mean', { inputs, parameters: { pooling: 'none' } });
    expect([many.status, many.body.error]).toEqual([422, expect.stringContaining('too many numbers')]);
    const job = await send('/analyze_batch', {
      texts: ['a'],
      model: 'bert-mean',
      parameters: { pooling: 'none' },
    });
    expect([job.status, JSON.stringify(job.body)]).toEqual([422, expect.stringContaining('pooling')]);
  });

  test('with truncate a text that is too long is cut, and the response says so', async () => {
    const { status, headers } = await send('/embed', { inputs: ['a', LONG], truncate: true });
    expect([status, headers.get('x-truncated-inputs')]).toEqual([200, '1']);
    const left = await send('/embed', { inputs: LONG, truncate: true, truncation_direction: 'Left' });
    const right = await send('/embed', { inputs: LONG, truncate: true, truncation_direction: 'Right' });
    expect(left.body).not.toEqual(right.body);
  });
});

describe('OpenAI', () => {
  test('embeddings are those of the model, as numbers or as base64, under an alias too', async () => {
    const expected = ((await outputsOf('bert-mean', TEXTS)) as number[][]).map(float32);
    const body = { input: TEXTS, model: 'text-embedding-3-small' };
    const floats = (await send('/v1/embeddings', body)).body;
    expect(floats).toMatchObject({ object: 'list', model: 'bert-mean' });
    expect(floats.data.map(({ embedding }: Body) => float32(embedding))).toEqual(expected);
    expect(floats.data.map(({ index }: Body) => index)).toEqual([0, 1, 2]);
    const base64 = (await send('/embeddings', { ...body, encoding_format: 'base64' })).body;
    expect(base64.data.map(({ embedding }: Body) => unpacked(embedding))).toEqual(expected);
    const tokens = (await send('/tokenize', { inputs: TEXTS })).body.flat().length;
    expect(base64.usage).toEqual({ prompt_tokens: tokens, total_tokens: tokens });
  });

  test('moderations flag the labels whose score reaches the threshold of the model', async () => {
    const outputs = (await outputsOf('bert-multi-label', TEXTS)) as { label: string; score: number }[][];
    const { body } = await send('/v1/moderations', { input: TEXTS });
    expect(body).toMatchObject({ id: expect.stringMatching(/^modr-/), model: 'bert-multi-label' });
    expect(body.results.map((result: Body) => result.category_scores)).toEqual(
      outputs.map((scores) => Object.fromEntries(scores.map(({ label, score }) => [label, score]))),
    );
    for (const { flagged, categories, category_scores: scores } of body.results) {
      for (const [label, score] of Object.entries<number>(scores))
        expect(categories[label]).toBe(score >= 0.45);
      expect(flagged).toBe(Object.values(categories).includes(true));
    }
    const parts = [
      { type: 'text', text: 'A fine' },
      { type: 'text', text: 'day' },
    ];
    expect((await send('/v1/moderations', { input: parts })).body.results).toEqual(
      (await send('/v1/moderations', { input: 'A fine\nday' })).body.results,
    );
  });

  test('models are listed by id and alias', async () => {
    const { data } = (await get('/v1/models')).body;
    expect(data.map(({ id }: Body) => id)).toEqual([
      'bert-mean',
      'text-embedding-3-small',
      'acme',
      'acme/vectors',
      'bert-labels',
      'bert-multi-label',
      'acme/embed',
      'roberta-rank',
      'bert-entities',
    ]);
    expect((await get('/v1/models/acme/vectors')).body).toMatchObject({
      id: 'acme/vectors',
      object: 'model',
    });
    expect((await get('/v1/models/nothing')).body.error).toMatchObject({
      code: 'model_not_found',
      param: 'model',
    });
  });

  test.each([
    ['a request without a model', { input: 'a' }, 400, 'model', /Give "model"/],
    ['an unknown model', { input: 'a', model: 'nothing' }, 404, 'model', /"nothing"/],
    ['a model for another task', { input: 'a', model: 'bert-labels' }, 400, 'model', /text-classification/],
    ['a request without an input', { model: 'acme' }, 400, 'input', /Give "input"/],
    ['token ids', { input: [1, 2], model: 'acme' }, 400, 'input', /check_embedding_ctx_length=False/],
    ['lists of token ids', { input: [[1, 2]], model: 'acme' }, 400, 'input', /Token arrays/],
    ['an empty text in a list', { input: ['a', ''], model: 'acme' }, 400, 'input.1', /empty/],
    ['an empty list', { input: [], model: 'acme' }, 400, 'input', /empty/],
    ['a text that is too long', { input: LONG, model: 'acme' }, 400, null, /48 tokens/],
    ['zero dimensions', { input: 'a', model: 'acme', dimensions: 0 }, 400, 'dimensions', /dimensions/],
    [
      'too many dimensions',
      { input: 'a', model: 'acme', dimensions: 33 },
      400,
      'dimensions',
      /32 dimensions/,
    ],
    [
      'an unknown encoding',
      { input: 'a', model: 'acme', encoding_format: 'x' },
      400,
      'encoding_format',
      /base64/,
    ],
  ])('%s is refused with the status and body of OpenAI', async (_name, body, status, param, message) => {
    const answer = await send('/v1/embeddings', body);
    expect(answer.status).toBe(status);
    expect(answer.body.error).toEqual({
      message: expect.stringMatching(message),
      type: 'invalid_request_error',
      param,
      code: expect.any(String),
    });
  });

  test('moderations need a classifier whose labels are independent, and texts', async () => {
    for (const [body, message] of [
      [{ input: 'a', model: 'bert-labels' }, /multi-label/],
      [{ input: 'a', model: 'bert-mean' }, /text-classification/],
      [{ input: [{ type: 'image_url', image_url: { url: 'x' } }] }, /Only parts/],
      [{ input: [1] }, /Token arrays/],
      [{}, /Give "input"/],
    ] as const) {
      const answer = await send('/v1/moderations', body);
      expect([answer.status, answer.body.error.message]).toEqual([400, expect.stringMatching(message)]);
    }
  });

  test('the header fields tell what remains, a wrong key is 401, and a full window says when to come back', async () => {
    const few = await rig.key({ limits: [{ limit: 2, windowSeconds: 600 }] });
    const ask = (with_: string) => post(`${url}/v1/embeddings`, with_, { input: 'a', model: 'acme' });
    const first = await ask(few);
    expect(first.headers.get('x-ratelimit-limit-requests')).toBe('2');
    expect(first.headers.get('x-ratelimit-remaining-requests')).toBe('1');
    expect(first.headers.get('x-ratelimit-reset-requests')).toMatch(/^\d+s$/);
    await ask(few);
    const refused = await ask(few);
    expect(refused.status).toBe(429);
    expect(refused.body.error).toMatchObject({ type: 'requests', code: 'rate_limit_exceeded' });
    expect(refused.headers.get('x-ratelimit-remaining-requests')).toBe('0');
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
    for (const wrong of ['sk_000000000000_wrong', ''])
      expect(
        (await request(`${url}/v1/models`, wrong ? { headers: { Authorization: `Bearer ${wrong}` } } : {}))
          .body.error,
      ).toMatchObject({
        code: 'invalid_api_key',
      });
  });
});

describe('rerank of Cohere and Jina', () => {
  test.each(['/v1/rerank', '/v2/rerank', '/rerank'])('%s has the fields of both', async (path) => {
    const [expected] = await outputsOf('roberta-rank', [{ query: 'fine', texts: TEXTS }]);
    const documents = [TEXTS[0], { text: TEXTS[1] }, TEXTS[2]];
    const { body } = await send(path, { query: 'fine', documents, return_documents: true, top_n: 2 });
    expect(body).toEqual({
      id: expect.any(String),
      results: expected.slice(0, 2).map(({ index, score }: Body) => ({
        index,
        relevance_score: score,
        document: { text: TEXTS[index] },
      })),
      meta: {
        api_version: { version: path === '/v2/rerank' ? '2' : '1' },
        billed_units: { search_units: 1 },
      },
      object: 'rerank',
      model: 'roberta-rank',
      usage: { prompt_tokens: expect.any(Number), total_tokens: expect.any(Number) },
    });
    expect(body.usage.total_tokens).toBeGreaterThan(TEXTS.length);
    expect((await send(path, { query: 'fine', documents, top_n: 9 })).body.results).toHaveLength(3);
  });

  test.each([
    ['a request without documents', { query: 'a', documents: [] }, 400, /documents/],
    ['an empty document', { query: 'a', documents: ['b', ''] }, 400, /documents\/1/],
    ['an unknown model', { query: 'a', documents: ['b'], model: 'nothing' }, 404, /"nothing"/],
    ['a model for another task', { query: 'a', documents: ['b'], model: 'acme' }, 400, /text-ranking/],
    [
      'fewer tokens of a document than the model reads',
      { query: 'a', documents: ['b'], max_tokens_per_doc: 5 },
      400,
      /max_tokens_per_doc/,
    ],
    [
      'another field of documents',
      { query: 'a', documents: [{ text: 'b' }], rank_fields: ['title'] },
      400,
      /rank_fields/,
    ],
  ])('%s is refused with the status and body of Cohere', async (_name, body, status, message) => {
    const answer = await send('/v2/rerank', body);
    expect([answer.status, answer.body]).toEqual([
      status,
      { message: expect.stringMatching(message), detail: expect.stringMatching(message) },
    ]);
  });

  test('a wrong key gets 401 in the shape of Cohere', async () => {
    const { status, body } = await post(`${url}/v2/rerank`, 'sk_000000000000_wrong', {});
    expect([status, body]).toEqual([401, { message: 'Invalid API key', detail: 'Invalid API key' }]);
  });
});

describe('paths', () => {
  test('the longest id or alias in a path wins over an operation', async () => {
    // The alias acme/embed is a classifier, and acme an embedding model.
    const { body } = await send('/models/acme/embed', { inputs: 'a' });
    expect(body[0][0]).toHaveProperty('label');
    expect((await send('/models/acme/embed/predict', { inputs: 'a' })).body[0]).toHaveProperty('label');
    expect(
      (await send('/models/acme/similarity', { inputs: { source_sentence: 'a', sentences: ['b'] } })).status,
    ).toBe(200);
    expect((await send('/models/acme%2Fvectors/embed', { inputs: 'a' })).status).toBe(200);
  });

  test('the body of a shared path decides whose request it is, and an error before the body is read has the fields of both families', async () => {
    expect((await send('/predict', { text: 'a' })).body).toHaveProperty('sentiment');
    expect((await send('/rerank', { query: 'a', texts: [] })).body).toHaveProperty('error_type');
    expect((await send('/rerank', { query: 'a' })).body).toHaveProperty('detail');
    for (const path of ['/predict', '/rerank', '/nothing']) {
      const { headers, body } = await request(`${url}${path}`, { method: 'POST' });
      expect(headers.get('content-type')).toContain('application/problem+json');
      expect(body).toMatchObject({ detail: body.message, error: body.message, code: expect.any(String) });
    }
  });

  test('Sluice’s own routes on a shared path keep their maximum body', async () => {
    const text = ' '.repeat(70_000);
    expect((await send('/predict', { text })).status).toBe(413);
    expect((await send('/predict', { inputs: text })).body.error).toMatch(/empty or only white space/);
  });

  test('every family is in the document, grouped', async () => {
    const { body } = await request(`${url}/openapi.json`);
    expect(body.tags.map(({ name }: Body) => name)).toEqual(
      expect.arrayContaining(['Hugging Face Inference', 'text-embeddings-inference', 'OpenAI']),
    );
    expect(body.paths['/predict'].post.tags).toEqual(['Work', 'text-embeddings-inference']);
    expect(body.paths['/rerank'].post.requestBody.content['application/json'].schema.anyOf).toHaveLength(2);
    expect(body.paths).toHaveProperty(['/models/{id}/embed']);
  });
});
