import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Limit } from '@sluice/shared';
import { type Answer, faultyWorkerMain, post, Rig, request, root, until } from './harness.js';

const tiny = (name: string, task: string) => ({
  id: name,
  task,
  source: join(root, 'tests/reference/models', name),
  dtype: 'fp32',
  processes: 1,
});

const TEXTS: string[] = JSON.parse(readFileSync(join(root, 'tests/reference/texts.json'), 'utf8'));

let rig: Rig;
beforeAll(async () => {
  rig = await Rig.start();
});
afterAll(() => rig.close());

const limitsOf = async (url: string, key: string) =>
  (await request(`${url}/me`, { headers: { 'X-API-Key': key } })).body.limits;
const remaining = async (url: string, key: string) =>
  (await limitsOf(url, key)).map((limit: { remaining: number }) => limit.remaining);
const MANY: Limit = { limit: 100_000, windowSeconds: 600 };
const texts = (limit: number): Limit => ({ limit, windowSeconds: 600, unit: 'texts' });
const tokens = (limit: number): Limit => ({ limit, windowSeconds: 600, unit: 'tokens' });

describe('with a model for each task', () => {
  let url: string;
  beforeAll(async () => {
    const env = rig.models([
      tiny('bert-mean', 'feature-extraction'),
      tiny('bert-labels', 'text-classification'),
      tiny('roberta-nli', 'zero-shot-classification'),
      tiny('roberta-rank', 'text-ranking'),
      tiny('bert-entities', 'token-classification'),
    ]);
    [{ url }] = await Promise.all([rig.gateway(env), rig.worker(env)]);
  });

  test('a window of texts counts what the model runs: inputs, labels, documents; a window of requests counts one', async () => {
    const key = await rig.key({ limits: [MANY, texts(1_000)] });
    let left = 1_000;
    for (const [path, body, cost] of [
      ['/predict', { text: 'a' }, 1],
      ['/predict', { inputs: [['a'], ['b', 'c']] }, 2],
      ['/v1/embeddings', { model: 'bert-mean', input: ['a', 'b', 'c'] }, 3],
      ['/similarity', { inputs: { source_sentence: 'a', sentences: ['b', 'c'] } }, 3],
      ['/v2/rerank', { query: 'a', documents: ['b', 'c', 'd', 'e'] }, 4],
      ['/models/roberta-nli', { inputs: ['a', 'b'], parameters: { candidate_labels: ['x', 'y', 'z'] } }, 6],
      ['/predict', { text: '' }, 0],
    ] as const) {
      const { status } = await post(`${url}${path}`, key, body);
      expect([path, status]).toEqual([path, cost === 0 ? 422 : 200]);
      left -= cost;
      expect((await remaining(url, key))[1]).toBe(left);
    }
    expect((await remaining(url, key))[0]).toBe(MANY.limit - 7);
    expect(await limitsOf(url, key)).toMatchObject([{ unit: 'requests' }, { unit: 'texts', limit: 1_000 }]);
  });

  test('a batch costs one request, and nothing of the windows of texts and tokens', async () => {
    const key = await rig.key({ limits: [MANY, texts(2), tokens(2)] });
    expect((await post(`${url}/analyze_batch`, key, { texts: ['a', 'b', 'c'] })).status).toBe(202);
    expect(await remaining(url, key)).toEqual([MANY.limit - 1, 2, 2]);
  });

  test('the tokens that a request costs are those that the model process reads, for every task', async () => {
    const key = await rig.key({ limits: [tokens(10_000_000)] });
    const some = TEXTS.slice(0, 60);
    for (const [model, inputs, parameters] of [
      ['bert-mean', some, {}],
      ['bert-mean', some, { truncation_direction: 'left', dimensions: 8 }],
      ['bert-labels', some.map((text, i) => (i % 3 ? text : { text, text_pair: some[i + 1] ?? 'a' })), {}],
      ['roberta-nli', some.slice(0, 20), { candidate_labels: ['sport', 'politics and law'] }],
      ['roberta-rank', some.slice(0, 10).map((query) => ({ query, texts: some.slice(0, 5) })), {}],
      ['bert-entities', some, {}],
    ] as const) {
      const [before] = await remaining(url, key);
      expect((await post(`${url}/models/${model}`, key, { inputs, parameters })).status).toBe(200);
      const [after] = await remaining(url, key);
      // Results of jobs tell what the model process has read.
      const accepted = await post(`${url}/analyze_batch`, key, { inputs, parameters, model });
      const job = `${url}${accepted.body.status_url}`;
      const headers = { 'X-API-Key': key };
      await until(
        'the job has ended',
        async () => (await request(job, { headers })).body.status === 'completed',
      );
      const { results } = (await request(`${job}/results`, { headers })).body;
      const read = results.reduce((sum: number, result: { tokens: number }) => sum + result.tokens, 0);
      expect([model, before - after]).toEqual([model, read]);
    }
  });

  test('a cost is taken from all windows or from none; a cost above a whole limit gets an error that is not retryable', async () => {
    const key = await rig.key({ limits: [MANY, texts(5), tokens(1_000)] });
    const embed = (count: number) =>
      post(`${url}/v1/embeddings`, key, { model: 'bert-mean', input: Array(count).fill('a fine day') });
    const first = await embed(3);
    expect(first.status).toBe(200);
    const [requests, , tokensLeft] = await remaining(url, key);
    expect(tokensLeft).toBe(1_000 - first.body.usage.total_tokens);
    const refused = await embed(3);
    expect([refused.status, refused.body.error.code]).toEqual([429, 'rate_limit_exceeded']);
    // `Retry-After` is the time until three texts are free, not until one is.
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(500);
    await until('the slot is back', async () => (await remaining(url, key))[0] === requests);
    expect(await remaining(url, key)).toEqual([requests, 2, tokensLeft]);
    const over = await embed(6);
    expect([over.status, over.body.error.message]).toEqual([
      400,
      expect.stringContaining('costs 6 texts, more than the limit of 5 in 600 s'),
    ]);
    expect((await remaining(url, key)).slice(1)).toEqual([2, tokensLeft]);
    const last = await embed(2);
    expect(last.status).toBe(200);
    expect(last.headers.get('ratelimit-policy')).toBe(
      '"default";q=100000;w=600, "600s-texts";q=5;qu="texts";w=600, "600s-tokens";q=1000;qu="tokens";w=600',
    );
    expect(last.headers.get('ratelimit')).toMatch(/^"600s-texts";r=0;t=\d+$/);
    expect(last.headers.get('x-ratelimit-remaining-tokens')).toBe(String((await remaining(url, key))[2]));
  });

  test('a gateway counts tokens after Redis has lost the tokenizer', async () => {
    const key = await rig.key({ limits: [tokens(1_000)] });
    expect((await post(`${url}/predict`, key, { text: 'a' })).status).toBe(200);
    await rig.redis.del(...(await rig.redis.keys('*:tokenizer:*')));
    const env = rig.models([tiny('bert-regression', 'text-classification')]);
    const other = await rig.gateway(env);
    expect((await post(`${other.url}/predict`, key, { text: 'a' })).body.code).toBe('no_worker');
    await rig.worker(env);
    expect((await post(`${other.url}/predict`, key, { text: 'a' })).status).toBe(200);
  });
});

test('a request that is refused with 503 costs no texts and no tokens', async () => {
  const [{ url }] = await Promise.all([
    rig.gateway({ REQUEST_TIMEOUT_SECONDS: '20' }),
    rig.worker({ MODEL_PROCESSES: '1', MICRO_BATCH_TEXTS: '1' }, faultyWorkerMain),
  ]);
  const key = await rig.key({ limits: [texts(1_000), tokens(10_000)] });
  const busy = await rig.key();
  const waiting = Array.from({ length: 40 }, (_, i) =>
    post(`${url}/predict`, busy, { text: `«slow:50» ${i}` }),
  );
  let refused: Answer | undefined;
  await until('a request is refused', async () => {
    const before = await remaining(url, key);
    const answer = await post(`${url}/predict`, key, { text: 'a fine day', timeout_seconds: 0.1 });
    if (answer.status !== 503) return false;
    refused = answer;
    await until('the cost is returned', async () => `${await remaining(url, key)}` === `${before}`);
    return true;
  });
  expect(refused?.body.code).toBe('overloaded');
  await Promise.all(waiting);
});

test('with 64 clients at two gateways, one of which is killed, no window has more than its limit, and every refusal is justified', async () => {
  const WINDOW_MS = 1_000;
  const LIMITS = { texts: 60, tokens: 700 };
  const env = rig.models([tiny('bert-mean', 'feature-extraction')]);
  const [one, two] = await Promise.all([rig.gateway(env), rig.gateway(env), rig.worker(env)]);
  const key = await rig.key({
    limits: [
      { limit: LIMITS.texts, windowSeconds: 1, unit: 'texts' },
      { limit: LIMITS.tokens, windowSeconds: 1, unit: 'tokens' },
    ],
  });
  /** The tokens of each text, measured without a limit. */
  const counted = await post(`${one.url}/models/bert-mean/tokenize`, await rig.key(), {
    inputs: TEXTS.slice(0, 50),
  });
  const lengths: number[] = counted.body.map((each: unknown[]) => Math.min(48, each.length));

  interface Call {
    sentMs: number;
    receivedMs: number;
    status: number;
    texts: number;
    tokens: number;
  }
  const calls: Call[] = [];
  let pressing = true;
  const press = async (client: number) => {
    for (let i = client; pressing; i += 7) {
      const count = 1 + (i % 4);
      const chosen = Array.from({ length: count }, (_, j) => (i * 3 + j) % 50);
      const gateway =
        i % 2 && two.app.child.exitCode === null && two.app.child.signalCode === null ? two : one;
      const sentMs = performance.now();
      const status = await post(`${gateway.url}/embed`, key, {
        inputs: chosen.map((each) => TEXTS[each]),
        truncate: true,
      }).then(
        (answer) => answer.status,
        () => 0,
      );
      const cost = chosen.reduce((sum, each) => sum + (lengths[each] ?? 0), 0);
      calls.push({ sentMs, receivedMs: performance.now(), status, texts: count, tokens: cost });
      if (status !== 200) await delay(20);
    }
  };
  const clients = Array.from({ length: 64 }, (_, client) => press(client));
  const answered = () => calls.filter(({ status }) => status === 200).length;
  await until('some are answered', () => answered() > 60);
  two.app.child.kill('SIGKILL');
  const before = answered();
  await until('more are answered', () => answered() > before + 60);
  pressing = false;
  await Promise.all(clients);

  const taken = calls.filter(({ status }) => status === 200);
  /** Requests whose gateway was killed may have been counted. */
  const maybe = calls.filter(({ status }) => status === 200 || status === 0);
  for (const unit of ['texts', 'tokens'] as const) {
    const sum = (some: Call[]) => some.reduce((total, call) => total + call[unit], 0);
    for (const { sentMs } of taken) {
      // Counted between sending and receiving, so surely within this window.
      const within = taken.filter((call) => call.sentMs >= sentMs && call.receivedMs < sentMs + WINDOW_MS);
      expect(sum(within)).toBeLessThanOrEqual(LIMITS[unit]);
    }
  }
  const refusals = calls.filter(({ status }) => status === 429);
  expect(refusals.length).toBeGreaterThan(20);
  for (const refusal of refusals) {
    const before_ = maybe.filter(
      (call) => call.receivedMs > refusal.sentMs - WINDOW_MS && call.sentMs < refusal.receivedMs,
    );
    const isJustified = (['texts', 'tokens'] as const).some(
      (unit) => before_.reduce((total, call) => total + call[unit], 0) + refusal[unit] > LIMITS[unit],
    );
    expect(isJustified).toBe(true);
  }
  expect(calls.filter(({ status }) => ![200, 429, 0].includes(status))).toEqual([]);
});
