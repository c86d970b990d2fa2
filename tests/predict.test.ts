import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { type App, post, Rig, request, root } from './harness.js';

let rig: Rig;
let gateway: { app: App; url: string };
let key: string;

beforeAll(async () => {
  rig = await Rig.start();
  // The deadlines of busy machines are tested in tests/overload.test.ts.
  const deadline = { REQUEST_TIMEOUT_SECONDS: '30' };
  [gateway, , key] = await Promise.all([rig.gateway(deadline), rig.worker(deadline), rig.key()]);
});
afterAll(() => rig.close());

const path = (route: string) => `${gateway.url}${route}`;

test('100 simultaneous sentences have the labels and scores of the pipeline of transformers.js', async () => {
  const rows = readFileSync(join(root, 'tests/data/sst2-100.tsv'), 'utf8').trim().split('\n').slice(1);
  const sentences = rows.map((row) => row.split('\t')[0] ?? '');
  const direct = spawnSync(process.execPath, [join(root, 'tests/direct.mjs')], {
    input: JSON.stringify(sentences),
    encoding: 'utf8',
  });
  const expected: { label: string; score: number }[] = JSON.parse(direct.stdout);
  // All at once, so that they share micro-batches.
  const answers = await Promise.all(sentences.map((text) => post(path('/predict'), key, { text })));
  expect(answers.map(({ status }) => status)).toEqual(sentences.map(() => 200));
  expect(answers.map(({ body }) => [body.text, body.sentiment, body.confidence])).toEqual(
    sentences.map((text, i) => [text, expected[i]?.label.toLowerCase(), expected[i]?.score]),
  );
  const gold = rows.map((row) => (row.split('\t')[1] === '1' ? 'positive' : 'negative'));
  const right = answers.filter(({ body }, i) => body.sentiment === gold[i]).length;
  expect(right).toBeGreaterThanOrEqual(80);
});

test('the three work routes have the documented responses', async () => {
  const text = 'This product is amazing!';
  const predict = await post(path('/predict'), key, { text });
  expect(predict.body).toEqual({
    text,
    sentiment: 'positive',
    confidence: expect.any(Number),
    status: 'success',
    requests_remaining: expect.any(Number),
  });
  const analyze = await post(path('/analyze'), key, { text });
  expect(analyze.body).toEqual({ sentiment: [{ label: 'POSITIVE', score: predict.body.confidence }] });
  const both = await post(path('/analyze'), key, { text, top_k: 5 });
  expect(both.body.sentiment.map(({ label }: { label: string }) => label)).toEqual(['POSITIVE', 'NEGATIVE']);
  const comment = await post(path('/analyze_comment'), key, { text });
  expect(comment.body).toEqual({ sentiment: 'POSITIVE' });
});

test('simultaneous requests with different parameters each get what they asked for', async () => {
  const answers = await Promise.all(
    Array.from({ length: 40 }, (_, i) =>
      post(path('/analyze'), key, { text: `number ${i}`, top_k: 1 + (i % 2) }),
    ),
  );
  expect(answers.map(({ body }) => body.sentiment.length)).toEqual(answers.map((_, i) => 1 + (i % 2)));
});

test('a text with too many tokens is cut, and the answer is marked as truncated', async () => {
  const long = await post(path('/predict'), key, { text: 'good '.repeat(2_000) });
  expect([long.status, long.body.truncated]).toEqual([200, true]);
  // 510 words and two special tokens are exactly the maximum.
  const fits = await post(path('/predict'), key, { text: 'good '.repeat(510) });
  expect([fits.status, 'truncated' in fits.body]).toEqual([200, false]);
  const cut = await post(path('/predict'), key, { text: 'good '.repeat(511) });
  expect([cut.status, cut.body.truncated]).toEqual([200, true]);
});

test.each([
  ['special tokens', '[CLS] [SEP] [PAD] [MASK] fine'],
  ['NUL', 'fine \u0000 really'],
  ['right-to-left', 'هذا المنتج رائع'],
  ['emoji', '👨‍👩‍👧‍👦 👍🏽'],
  ['ten thousand characters outside the BMP', '👍'.repeat(10_000)],
  ['a model by its name', 'fine'],
])('a text is answered: %s', async (what, text) => {
  const body = what === 'a model by its name' ? { text, model: 'minilm-l6-sst2' } : { text };
  const answer = await post(path('/predict'), key, body);
  expect([answer.status, answer.body.text]).toEqual([200, text]);
});

test('a text has the same score alone and together with very long and very short ones', async () => {
  const text = 'A charming, flawed, and finally moving film.';
  const alone = await post(path('/analyze'), key, { text, top_k: 2 });
  const others = ['ok', 'terrible '.repeat(300), text, 'x', 'so it goes '.repeat(40)];
  const together = await Promise.all(
    others.map((other) => post(path('/analyze'), key, { text: other, top_k: 2 })),
  );
  expect(together[2]?.body).toEqual(alone.body);
});

test('a body may be compressed', async () => {
  const { gzipSync } = await import('node:zlib');
  const answer = await request(path('/predict'), {
    method: 'POST',
    headers: {
      Authorization: `Bearer ${key}`,
      'Content-Type': 'application/json; charset=UTF-8',
      'Content-Encoding': 'gzip',
    },
    body: gzipSync(JSON.stringify({ text: 'fine' })),
  });
  expect(answer.status).toBe(200);
});

test("/me and /items/ describe the caller's key", async () => {
  const own = await rig.key({ name: 'me', limits: [{ limit: 3, windowSeconds: 60 }], bulkLimit: 7 });
  await post(path('/predict'), own, { text: 'fine' });
  const me = await request(path('/me'), { headers: { 'X-API-Key': own } });
  expect(me.body).toEqual({
    key_id: own.split('_')[1],
    name: 'me',
    scopes: ['predict', 'batch'],
    limits: [{ limit: 3, window_seconds: 60, unit: 'requests', remaining: 2, reset_seconds: 60 }],
    bulk: { limit: 7, queued: 0 },
    expires_at: null,
  });
  const items = await request(path('/items/'), { headers: { 'X-API-Key': own } });
  expect([items.status, items.body, items.headers.get('cache-control')]).toEqual([
    200,
    { api_key: own },
    'no-store',
  ]);
  // They use no slot.
  expect((await request(path('/me'), { headers: { 'X-API-Key': own } })).body.limits[0].remaining).toBe(2);
});

test('health checks and the reference need no key', async () => {
  expect((await request(path('/health'))).body).toEqual({ status: 'ok' });
  expect((await request(path('/ready'))).body).toEqual({ status: 'ready', workers: 1, storage: 'ok' });
  const document = (await request(path('/openapi.json'))).body;
  expect(document.openapi).toBe('3.1.0');
  expect(Object.keys(document.paths)).toEqual(
    expect.arrayContaining(['/predict', '/jobs/{id}', '/models/{id}', '/v1/embeddings', '/v2/rerank']),
  );
  const docs = await request(path('/docs'));
  expect(docs.headers.get('content-type')).toMatch(/text\/html/);
  for (const [, link] of docs.body.matchAll(/(?:src|href)="([^"]+)"/g)) {
    // Nothing is loaded from another origin.
    expect(link).toMatch(/^\/docs\/assets\//);
    expect((await fetch(path(link ?? ''))).status).toBe(200);
  }
});

test('the reference can be disabled', async () => {
  const closed = await rig.gateway({ PUBLIC_DOCS: 'false' });
  for (const route of ['/docs', '/openapi.json', '/docs/assets/swagger-ui.css']) {
    expect((await fetch(`${closed.url}${route}`)).status).toBe(404);
  }
});

test('neither keys nor texts reach the log', async () => {
  const secretText = 'nobody but the model should read this';
  await post(path('/predict'), key, { text: secretText });
  await post(path('/predict'), 'a-wrong-but-secret-key', { text: secretText });
  expect(gateway.app.output).toContain('"path":"/predict"');
  for (const secret of [key, key.slice(-32), 'a-wrong-but-secret-key', secretText]) {
    expect(gateway.app.output).not.toContain(secret);
  }
});
