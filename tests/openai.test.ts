import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import OpenAI, { toFile } from 'openai';
import { type Answer, post, Rig, request, root, until } from './harness.js';

const tiny = (name: string, task: string, more = {}) => ({
  id: name,
  task,
  source: join(root, 'tests/reference/models', name),
  dtype: 'fp32',
  processes: 1,
  ...more,
});
/** Short enough for the models, which read 48 tokens. */
const TEXTS = (JSON.parse(readFileSync(join(root, 'tests/reference/texts.json'), 'utf8')) as string[]).filter(
  (text) => text.length <= 40,
);

let rig: Rig;
let url: string;
let key: string;
let client: OpenAI;
let env: Record<string, string>;
beforeAll(async () => {
  rig = await Rig.start();
  env = {
    ...(rig.models([
      tiny('bert-mean', 'feature-extraction', { aliases: ['text-embedding-3-small'] }),
      tiny('bert-multi-label', 'text-classification'),
      tiny('bert-labels', 'text-classification'),
    ]) as Record<string, string>),
    MAX_FILE_BYTES_PER_KEY: '300000',
    MAX_BATCH_TEXTS: '2000',
    MAX_INPUTS: '64',
  };
  [{ url }, key] = await Promise.all([rig.gateway(env), rig.key(), rig.worker(env)]);
  client = new OpenAI({ apiKey: key, baseURL: `${url}/v1`, maxRetries: 0 });
});
afterAll(() => rig.close());

const upload = async (text: string, as = client) =>
  as.files.create({ file: await toFile(Buffer.from(text), 'requests.jsonl'), purpose: 'batch' });
const line = (id: string, body: object, endpoint = '/v1/embeddings', method = 'POST') =>
  JSON.stringify({ custom_id: id, method, url: endpoint, body });
const embed = (id: string, input: unknown, more = {}) =>
  line(id, { model: 'text-embedding-3-small', input, ...more });
async function submit(
  lines: readonly string[],
  endpoint: '/v1/embeddings' | '/v1/moderations' = '/v1/embeddings',
  more = {},
) {
  const file = await upload(lines.join('\n'));
  return client.batches.create({ input_file_id: file.id, endpoint, completion_window: '24h', ...more });
}
async function ended(id: string) {
  let batch = await client.batches.retrieve(id);
  await until('the batch has ended', async () => {
    batch = await client.batches.retrieve(id);
    return batch.status !== 'in_progress';
  });
  return batch;
}
const linesOf = async (fileId: string | null | undefined) => {
  const text = await (await client.files.content(fileId ?? '')).text();
  return text
    .split('\n')
    .filter(Boolean)
    .map((each) => JSON.parse(each) as Answer['body']);
};

describe('files', () => {
  test('a file can be uploaded, read, listed and deleted; only its key sees it', async () => {
    const text = `${embed('a', 'Ágnes 👍')}\r\n`.repeat(1_500);
    const file = await upload(text);
    expect(file).toMatchObject({
      object: 'file',
      bytes: Buffer.byteLength(text),
      purpose: 'batch',
      filename: 'requests.jsonl',
    });
    expect(file.expires_at).toBe(file.created_at + 86_400);
    expect(await (await client.files.content(file.id)).text()).toBe(text);
    expect(await client.files.retrieve(file.id)).toEqual(file);
    expect((await client.files.list()).data).toContainEqual(file);
    const other = new OpenAI({ apiKey: await rig.key(), baseURL: `${url}/v1`, maxRetries: 0 });
    await expect(other.files.retrieve(file.id)).rejects.toMatchObject({ status: 404 });
    await expect(other.files.delete(file.id)).rejects.toMatchObject({ status: 404 });
    expect((await other.files.list()).data).toEqual([]);
    expect(await client.files.delete(file.id)).toEqual({ id: file.id, object: 'file', deleted: true });
    await expect(client.files.content(file.id)).rejects.toMatchObject({ status: 404 });
    expect(await rig.redis.keys(`*${file.id}*`)).toEqual([]);
  });

  test('lists come in pages, newest first or oldest first, by purpose', async () => {
    const owner = new OpenAI({ apiKey: await rig.key(), baseURL: `${url}/v1`, maxRetries: 0 });
    const ids: string[] = [];
    for (let i = 0; i < 3; i++) ids.push((await upload(embed('a', 'b'), owner)).id);
    const first = await owner.files.list({ limit: 2, order: 'asc' });
    const all: string[] = [];
    for await (const { id } of first) all.push(id);
    expect(all.sort()).toEqual(ids.sort());
    expect((await owner.files.list({ purpose: 'batch_output' })).data).toEqual([]);
    await expect(owner.files.list({ after: 'file-x' })).rejects.toMatchObject({ status: 404 });
  });

  /** A form with some parts, as it is on the wire. */
  const form = (...parts: string[]) => ({
    headers: { 'X-API-Key': key, 'Content-Type': 'multipart/form-data; boundary=x' },
    body: `${parts.map((part) => `--x\r\n${part}\r\n`).join('')}--x--\r\n`,
  });
  const field = (name: string, value: string) =>
    `Content-Disposition: form-data; name="${name}"\r\n\r\n${value}`;
  const filePart = (name = 'file', text = embed('a', 'b')) =>
    `Content-Disposition: form-data; name="${name}"; filename="r.jsonl"\r\nContent-Type: application/jsonl\r\n\r\n${text}`;

  test.each([
    ['a form without a file', form(field('purpose', 'batch')), 400, /field "file"/],
    ['a file in another field', form(field('purpose', 'batch'), filePart('data')), 400, /"data"/],
    ['two files', form(field('purpose', 'batch'), filePart(), filePart()), 400, /more than one file/],
    ['a form without a purpose', form(filePart()), 400, /must be "batch"; it is missing/],
    [
      'another purpose, after the file',
      form(filePart(), field('purpose', 'fine-tune')),
      400,
      /it is "fine-tune"/,
    ],
    [
      'an expiry',
      form(field('purpose', 'batch'), field('expires_after[seconds]', '60'), filePart()),
      400,
      /FILE_TTL_SECONDS/,
    ],
    [
      'a field that is too long',
      form(field('purpose', 'x'.repeat(2_000)), filePart()),
      400,
      /longer than 1024 bytes/,
    ],
    [
      'a form that ends early',
      { ...form(), body: '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc' },
      400,
      /cannot be read/,
    ],
    [
      'a form without a boundary',
      { ...form(filePart()), headers: { 'X-API-Key': '', 'Content-Type': 'multipart/form-data; a=b' } },
      400,
      /oundary/,
    ],
    [
      'a JSON body',
      { body: '{}', headers: { 'X-API-Key': '', 'Content-Type': 'application/json' } },
      415,
      /multipart/,
    ],
    [
      'a file over the allowance',
      form(field('purpose', 'batch'), filePart('file', 'x'.repeat(300_001))),
      413,
      /300000 bytes/,
    ],
  ])('%s is refused, and nothing is stored', async (_name, init, status, message) => {
    const before = await rig.redis.keys('*file*');
    const answer = await request(`${url}/v1/files`, {
      method: 'POST',
      ...init,
      headers: { ...init.headers, 'X-API-Key': key },
    });
    expect([answer.status, answer.body.error.message]).toEqual([status, expect.stringMatching(message)]);
    await until(
      'nothing of it is left',
      async () => (await rig.redis.keys('*file*')).length === before.length,
    );
  });

  test('an empty file, and a third upload at once, are refused', async () => {
    await expect(upload('')).rejects.toMatchObject({ status: 400, message: expect.stringMatching(/empty/) });
    const owner = await rig.key();
    const uploads = `{sluice}:uploads:${owner.split('_')[1]}`;
    await rig.redis.zadd(uploads, Date.now() + 60_000, 'one', Date.now() + 60_000, 'two');
    const as = new OpenAI({ apiKey: owner, baseURL: `${url}/v1`, maxRetries: 0 });
    await expect(upload('x', as)).rejects.toMatchObject({ status: 429, code: 'too_many_uploads' });
  });

  test('the files of a key have a maximum total size, which deletion returns', async () => {
    const owner = new OpenAI({ apiKey: await rig.key(), baseURL: `${url}/v1`, maxRetries: 2 });
    const half = 'x'.repeat(160_000);
    const file = await upload(half, owner);
    await expect(upload(half, owner)).rejects.toMatchObject({ status: 429, code: 'file_allowance_used' });
    // Two uploads at once cannot both be accepted.
    const owner2 = new OpenAI({ apiKey: await rig.key(), baseURL: `${url}/v1`, maxRetries: 0 });
    const both = await Promise.allSettled([upload(half, owner2), upload(half, owner2)]);
    expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    await owner.files.delete(file.id);
    expect((await upload(half, owner)).bytes).toBe(160_000);
  });

  test('a file expires after FILE_TTL_SECONDS, but not while a batch that was made from it is unfinished', async () => {
    const [short, stopped] = [
      await rig.gateway({ ...env, FILE_TTL_SECONDS: '1', RESULT_TTL_SECONDS: '600' }),
      await rig.key(),
    ];
    const owner = new OpenAI({ apiKey: stopped, baseURL: `${short.url}/v1`, maxRetries: 0 });
    const idle = await upload(embed('a', 'b'), owner);
    const used = await upload(embed('a', 'b'), owner);
    const batch = await owner.batches.create({
      input_file_id: used.id,
      endpoint: '/v1/embeddings',
      completion_window: '24h',
    });
    const isGone = async (id: string) =>
      (await request(`${short.url}/v1/files/${id}`, { headers: { 'X-API-Key': stopped } })).status === 404;
    await until('the idle one has expired', () => isGone(idle.id));
    await until(
      'the other one too, after the batch',
      async () => (await owner.batches.retrieve(batch.id)).status === 'completed' && (await isGone(used.id)),
    );
    expect(await rig.redis.hget(`{sluice}:key:${stopped.split('_')[1]}`, 'file_bytes')).toBe('0');
    await short.app.stop();
  });
});

describe('batches', () => {
  test('each request gets the body that it gets alone, in input order, with its custom_id', async () => {
    const requests = [
      ['one', { input: 'A fine day' }],
      ['two', { input: TEXTS.slice(0, 40), encoding_format: 'base64' }],
      ['three', { input: ['a', 'b'], dimensions: 4 }],
      ...Array.from({ length: 100 }, (_, i) => [`n${i}`, { input: TEXTS[i] ?? '' }]),
    ] as [string, { input: string | string[]; encoding_format?: 'base64'; dimensions?: number }][];
    const batch = await submit(
      requests.map(([id, body]) => embed(id, body.input, body)),
      '/v1/embeddings',
      { metadata: { run: 'seven' } },
    );
    expect(batch).toMatchObject({
      object: 'batch',
      status: 'in_progress',
      metadata: { run: 'seven' },
      errors: null,
      request_counts: { total: 103 },
    });
    const end = await ended(batch.id);
    expect(end).toMatchObject({
      status: 'completed',
      request_counts: { total: 103, completed: 103, failed: 0 },
      error_file_id: null,
    });
    const lines = await linesOf(end.output_file_id);
    expect(lines.map(({ custom_id }) => custom_id)).toEqual(requests.map(([id]) => id));
    for (const [i, [, body]] of requests.slice(0, 20).entries()) {
      const alone = await post(`${url}/v1/embeddings`, key, { model: 'bert-mean', ...body });
      expect(lines[i]).toMatchObject({ error: null, response: { status_code: 200, body: alone.body } });
    }
    const output = await client.files.retrieve(end.output_file_id ?? '');
    const text = await (await client.files.content(output.id)).text();
    expect(output).toMatchObject({ purpose: 'batch_output', bytes: Buffer.byteLength(text) });
    // It is a job, too.
    const { jobs } = (await request(`${url}/jobs`, { headers: { 'X-API-Key': key } })).body;
    const job = jobs.find(
      (each: { job_id: string }) => each.job_id.replaceAll('-', '') === batch.id.slice(6),
    );
    expect(job).toMatchObject({ status: 'completed', total: 103 });
    const page = (await request(`${url}${job.results_url}?limit=2`, { headers: { 'X-API-Key': key } })).body;
    expect(page.results[1]).toMatchObject({ id: 'two', inputs: TEXTS.slice(0, 40), output: { length: 40 } });
    await expect(client.files.delete(output.id)).rejects.toMatchObject({ status: 400 });
  });

  test('moderations of a batch are those of single requests', async () => {
    const inputs = ['A fine day', ['a', 'b'], [{ type: 'text', text: 'c' }]];
    const end = await ended(
      (
        await submit(
          inputs.map((input, i) => line(`m${i}`, { input }, '/v1/moderations')),
          '/v1/moderations',
        )
      ).id,
    );
    const lines = await linesOf(end.output_file_id);
    for (const [i, input] of inputs.entries()) {
      const alone = await post(`${url}/v1/moderations`, key, { input });
      expect(lines[i].response.body.results).toEqual(alone.body.results);
    }
  });

  test('a request that fails is in the error file, the others are in the output file', async () => {
    const long = 'the old bridge '.repeat(60);
    const end = await ended(
      (await submit([embed('a', 'fine'), embed('b', ['fine', long]), embed('c', 'fine')])).id,
    );
    expect(end.request_counts).toEqual({ total: 3, completed: 2, failed: 1 });
    expect((await linesOf(end.output_file_id)).map(({ custom_id }) => custom_id)).toEqual(['a', 'c']);
    expect(await linesOf(end.error_file_id)).toEqual([
      {
        id: expect.stringMatching(/^batch_req_/),
        custom_id: 'b',
        response: {
          status_code: 400,
          request_id: expect.any(String),
          body: {
            error: {
              message: expect.stringMatching(/more tokens/),
              type: 'invalid_request_error',
              param: null,
              code: 'context_length_exceeded',
            },
          },
        },
        error: null,
      },
    ]);
  });

  test('lines that are wrong are listed with their numbers, and nothing of the batch runs', async () => {
    const batch = await submit([
      embed('fine', 'fine'),
      '{',
      '',
      '[]',
      embed('fine', 'again'),
      embed('e', ['a', ' ']),
      embed('f', []),
      embed('g', Array(65).fill('a')),
      embed('h', [1, 2]),
      embed('i', 'a', { dimensions: 0 }),
      embed('j', 'a', { dimensions: 33 }),
      embed('k', 'a', { encoding_format: 'x' }),
      line('l', { input: 'a' }),
      line('m', { model: 'nothing', input: 'a' }),
      line('n', { model: 'bert-labels', input: 'a' }),
      line('o', { input: 'a' }, '/v1/moderations'),
      line('p', { model: 'bert-mean', input: 'a' }, '/v1/embeddings', 'GET'),
      JSON.stringify({ method: 'POST', url: '/v1/embeddings', body: {} }),
      line('q', { model: 'bert-mean', input: 'a' }, '/v1/chat/completions'),
    ]);
    expect(batch).toMatchObject({ status: 'failed', output_file_id: null, error_file_id: null });
    expect(batch.errors?.data?.map(({ line: number, code, param }) => [number, code, param])).toEqual([
      [2, 'invalid_json_line', null],
      [4, 'invalid_request', null],
      [5, 'duplicate_custom_id', 'custom_id'],
      [6, 'invalid_request', 'body.input.1'],
      [7, 'invalid_request', 'body.input'],
      [8, 'invalid_request', 'body.input'],
      [9, 'invalid_request', 'body.input'],
      [10, 'invalid_request', 'body.dimensions'],
      [11, 'invalid_request', 'body.dimensions'],
      [12, 'invalid_request', 'body.encoding_format'],
      [13, 'invalid_request', 'body.model'],
      [14, 'model_not_found', 'body.model'],
      [15, 'wrong_task', 'body.model'],
      [16, 'invalid_request', 'url'],
      [17, 'invalid_request', 'method'],
      [18, 'invalid_request', 'custom_id'],
      [19, 'invalid_request', 'url'],
    ]);
    expect(await client.batches.retrieve(batch.id)).toEqual(batch);
    const job = `${url}/jobs/${batch.id.slice(6).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')}`;
    const headers = { 'X-API-Key': key };
    expect((await request(job, { headers })).body).toMatchObject({
      status: 'failed',
      total: 0,
      progress: 0,
      error: expect.stringMatching(/Line 2/),
    });
    expect((await request(`${job}/results`, { headers })).body.results).toEqual([]);
    expect((await request(job, { method: 'DELETE', headers })).status).toBe(204);
    await expect(client.batches.retrieve(batch.id)).rejects.toMatchObject({ status: 404 });
  });

  test.each([
    [
      'more requests than a batch may have',
      Array.from({ length: 2_001 }, (_, i) => embed(`${i}`, 'a')).join('\n'),
      { code: 'too_many_requests', line: null },
    ],
    ['a file of empty lines', '\n\n', { code: 'empty_file', line: null }],
    ['binary data', '\u0000\u0001\n', { code: 'invalid_json_line', line: 1 }],
    ['two models', `${embed('a', 'b')}\n${line('c', { model: 'bert-labels', input: 'a' })}`, { line: 2 }],
  ])('%s gives a failed batch', async (_name, text, error) => {
    expect((await submit([text])).errors?.data).toEqual([expect.objectContaining(error)]);
  });

  test.each([
    [
      'too many inputs in few requests',
      Array.from({ length: 50 }, (_, i) => embed(`${i}`, Array(41).fill('a'))),
      {},
      413,
      /2000/,
    ],
    ['another endpoint', [embed('a', 'b')], { endpoint: '/v1/chat/completions' }, 400, /endpoint/],
    ['another window', [embed('a', 'b')], { completion_window: '1h' }, 400, /completion_window/],
    ['an unknown file', [embed('a', 'b')], { input_file_id: `file-${'0'.repeat(32)}` }, 404, /no file/],
    ['metadata that is too long', [embed('a', 'b')], { metadata: { a: 'x'.repeat(513) } }, 400, /metadata/],
    [
      'an expiry of the output',
      [embed('a', 'b')],
      { output_expires_after: { anchor: 'created_at', seconds: 60 } },
      400,
      /FILE_TTL_SECONDS/,
    ],
  ])('%s is refused', async (_name, lines, more, status, message) => {
    await expect(submit(lines, '/v1/embeddings', more)).rejects.toMatchObject({
      status,
      message: expect.stringMatching(message),
    });
  });

  test('the allowance counts the inputs of unfinished batches', async () => {
    const small = await rig.key({ bulkLimit: 30 });
    const owner = new OpenAI({ apiKey: small, baseURL: `${url}/v1`, maxRetries: 0 });
    const file = await upload(
      Array.from({ length: 5 }, (_, i) => embed(`${i}`, ['a', 'b', 'c', 'd'])).join('\n'),
      owner,
    );
    const create = () =>
      owner.batches.create({ input_file_id: file.id, endpoint: '/v1/embeddings', completion_window: '24h' });
    const first = await create();
    await until(
      'the batch has ended',
      async () => (await owner.batches.retrieve(first.id)).status === 'completed',
    );
    const { bulk } = (await request(`${url}/me`, { headers: { 'X-API-Key': small } })).body;
    expect(bulk).toEqual({ limit: 30, queued: 0 });
    const none = await rig.key({ bulkLimit: 19 });
    const refused = new OpenAI({ apiKey: none, baseURL: `${url}/v1`, maxRetries: 0 });
    const again = await upload(
      Array.from({ length: 5 }, (_, i) => embed(`${i}`, ['a', 'b', 'c', 'd'])).join('\n'),
      refused,
    );
    await expect(
      refused.batches.create({
        input_file_id: again.id,
        endpoint: '/v1/embeddings',
        completion_window: '24h',
      }),
    ).rejects.toMatchObject({ status: 413 });
  });

  test('the same Idempotency-Key gives the same batch', async () => {
    const file = await upload(embed('a', 'b'));
    const body = { input_file_id: file.id, endpoint: '/v1/embeddings', completion_window: '24h' } as const;
    const headers = { 'Idempotency-Key': 'once' };
    const [one, two] = [
      await client.batches.create(body, { headers }),
      await client.batches.create(body, { headers }),
    ];
    expect(two.id).toBe(one.id);
    const other = await upload(embed('a', 'c'));
    await expect(
      client.batches.create({ ...body, input_file_id: other.id }, { headers }),
    ).rejects.toMatchObject({ code: 'idempotency_mismatch' });
  });

  test('batches are listed newest first, in pages, without other jobs', async () => {
    const owner = await rig.key();
    const as = new OpenAI({ apiKey: owner, baseURL: `${url}/v1`, maxRetries: 0 });
    const file = await upload(embed('a', 'b'), as);
    const ids: string[] = [];
    for (let i = 0; i < 3; i++) {
      ids.unshift(
        (
          await as.batches.create({
            input_file_id: file.id,
            endpoint: '/v1/embeddings',
            completion_window: '24h',
          })
        ).id,
      );
      await post(`${url}/analyze_batch`, owner, { texts: ['a'] });
    }
    const listed: string[] = [];
    for await (const { id } of await as.batches.list({ limit: 2 })) listed.push(id);
    expect(listed).toEqual(ids);
    await expect(client.batches.retrieve(ids[0] ?? '')).rejects.toMatchObject({ status: 404 });
    await expect(client.batches.cancel(ids[0] ?? '')).rejects.toMatchObject({ status: 404 });
  });
});

describe('without a worker', () => {
  let alone: string;
  let as: OpenAI;
  beforeAll(async () => {
    const models = rig.models([tiny('bert-cls', 'feature-extraction')]) as Record<string, string>;
    alone = (await rig.gateway({ ...env, ...models, BATCH_TIMEOUT_SECONDS: '1' })).url;
    as = new OpenAI({ apiKey: key, baseURL: `${alone}/v1`, maxRetries: 0 });
  });
  const submitAlone = async () => {
    const file = await upload(
      [line('a', { model: 'bert-cls', input: 'a' }), line('b', { model: 'bert-cls', input: 'b' })].join('\n'),
      as,
    );
    return as.batches.create({
      input_file_id: file.id,
      endpoint: '/v1/embeddings',
      completion_window: '24h',
    });
  };

  test('a batch that is not finished in time is expired, and each of its requests says so', async () => {
    const batch = await submitAlone();
    await until('it has expired', async () => (await as.batches.retrieve(batch.id)).status === 'expired');
    const end = await as.batches.retrieve(batch.id);
    expect(end).toMatchObject({
      expired_at: expect.any(Number),
      output_file_id: null,
      request_counts: { total: 2, completed: 0 },
    });
    expect(
      (await linesOf(end.error_file_id)).map((each) => [each.custom_id, each.response, each.error.code]),
    ).toEqual([
      ['a', null, 'batch_expired'],
      ['b', null, 'batch_expired'],
    ]);
  });

  test('a batch can be canceled, once; it then stays as it is', async () => {
    const batch = await submitAlone();
    const canceled = await as.batches.cancel(batch.id);
    expect(canceled).toMatchObject({ status: 'cancelled', cancelled_at: expect.any(Number) });
    expect(await as.batches.cancel(batch.id)).toEqual(canceled);
    expect((await linesOf(canceled.error_file_id)).map((each) => each.error.code)).toEqual([
      'batch_cancelled',
      'batch_cancelled',
    ]);
    // Canceling uses no slot.
    const small = await rig.key({ limits: [{ limit: 1, windowSeconds: 600 }] });
    const ids = await request(`${alone}/v1/batches/${batch.id}/cancel`, {
      method: 'POST',
      headers: { 'X-API-Key': small },
    });
    expect(ids.status).toBe(404);
    expect((await request(`${alone}/me`, { headers: { 'X-API-Key': small } })).body.limits[0].remaining).toBe(
      1,
    );
  });
});

test('after a worker and a gateway were killed, each request is answered once, and nothing is left behind', async () => {
  const owner = await rig.key();
  const [first, worker] = await Promise.all([rig.gateway(env), rig.worker(env)]);
  const as = (at: string) => new OpenAI({ apiKey: owner, baseURL: `${at}/v1`, maxRetries: 0 });
  const total = 400;
  const file = await upload(
    Array.from({ length: total }, (_, i) => embed(`n${i}`, [TEXTS[i] ?? 'a', 'and another'])).join('\n'),
    as(first.url),
  );
  const batch = await as(first.url).batches.create({
    input_file_id: file.id,
    endpoint: '/v1/embeddings',
    completion_window: '24h',
  });
  await until(
    'some are answered',
    async () => ((await as(url).batches.retrieve(batch.id)).request_counts?.completed ?? 0) > 0,
  );
  worker.child.kill('SIGKILL');
  first.app.child.kill('SIGKILL');
  await until(
    'the batch has ended',
    async () => (await as(url).batches.retrieve(batch.id)).status === 'completed',
  );
  const end = await as(url).batches.retrieve(batch.id);
  expect(end.request_counts).toEqual({ total, completed: total, failed: 0 });
  const text = await (await as(url).files.content(end.output_file_id ?? '')).text();
  const ids = text
    .split('\n')
    .filter(Boolean)
    .map((each) => JSON.parse(each).custom_id);
  expect(ids).toEqual(Array.from({ length: total }, (_, i) => `n${i}`));
  const jobId = batch.id.slice(6).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
  await request(`${url}/jobs/${jobId}`, { method: 'DELETE', headers: { 'X-API-Key': owner } });
  await as(url).files.delete(file.id);
  await until('nothing of it is left', async () => {
    const names = await rig.redis.keys('*');
    return names.every((name) => !name.includes(jobId) && !name.includes(file.id));
  });
});
