import { createReadStream, readFileSync } from 'node:fs';
import { access } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { post, Rig, request, root, until } from './harness.js';

/** Serves models in the layout of the Hub: the bundled one as `acme/sentiment`, one that tests/data/dynamic.py makes. */
const hubFolders: Record<string, string> = {
  sentiment: 'models/minilm-l6-sst2',
  dynamic: 'tests/data/dynamic',
};
let hub: Server;
let hubUrl: string;
let asked: string[] = [];

beforeAll(async () => {
  hub = createServer(async (request, response) => {
    // A range asks only how long a file is.
    asked.push(`${request.headers.range ? 'RANGE' : request.method} ${request.url}`);
    const [, model = '', file = 'none'] =
      /^\/acme\/(\w+)\/resolve\/(?:v1|main)\/(.+)$/.exec(request.url ?? '') ?? [];
    const path = join(root, hubFolders[model] ?? 'none', file);
    const { size } = await access(path)
      .then(() => import('node:fs/promises'))
      .then(({ stat }) => stat(path))
      .catch(() => ({ size: -1 }));
    response.writeHead(size < 0 ? 404 : 200, size < 0 ? {} : { 'Content-Length': size });
    if (size < 0 || request.method === 'HEAD') response.end();
    else if (request.headers.range || !path.endsWith('.onnx')) createReadStream(path).pipe(response);
    else {
      // Slow enough to be told of.
      for await (const part of createReadStream(path, { highWaterMark: 3_000_000 })) {
        response.write(part);
        await delay(300);
      }
      response.end();
    }
  });
  await new Promise<void>((resolve) => hub.listen(0, '127.0.0.1', resolve));
  hubUrl = `http://127.0.0.1:${(hub.address() as AddressInfo).port}`;
});
afterAll(() => {
  hub.closeAllConnections();
  hub.close();
});

let rig: Rig;
beforeEach(async () => {
  rig = await Rig.start();
  asked = [];
});
afterEach(() => rig.close());

test('a model from the Hub is downloaded with progress, kept, and loaded again without the Hub', async () => {
  const remote = { MODEL: 'acme/sentiment', HF_ENDPOINT: hubUrl, MODEL_PROCESSES: '2' };
  const [{ url }, worker, key] = await Promise.all([rig.gateway(remote), rig.worker(remote), rig.key()]);
  expect(worker.output).toMatch(
    /Loading acme\/sentiment: onnx\/model_quantized\.onnx, .* of 23\.5 MB \(\d+ %\)/,
  );
  expect(asked.filter((line) => line.startsWith('GET') && line.endsWith('.onnx'))).toEqual([
    'GET /acme/sentiment/resolve/main/onnx/model_quantized.onnx',
  ]);
  const answer = await post(`${url}/predict`, key, {
    text: 'This product is amazing!',
    model: 'acme/sentiment',
  });
  expect([answer.status, answer.body.sentiment]).toEqual([200, 'positive']);

  await worker.stop();
  asked = [];
  const offline = await rig.worker({ ...remote, HF_ENDPOINT: 'http://127.0.0.1:9' });
  expect(asked).toEqual([]);
  expect(offline.output).not.toContain('Loading');
  expect((await post(`${url}/predict`, key, { text: 'This product is amazing!' })).body).toMatchObject({
    confidence: answer.body.confidence,
  });
});

test('the revision that is asked for is loaded', async () => {
  await rig.worker({
    MODEL: 'acme/sentiment',
    MODEL_REVISION: 'v1',
    HF_ENDPOINT: hubUrl,
    MODEL_PROCESSES: '1',
  });
  expect(asked.filter((line) => /^GET .*onnx$/.test(line))).toEqual([
    'GET /acme/sentiment/resolve/v1/onnx/model_quantized.onnx',
  ]);
});

test('the bundled model is loaded without a word to the Hub', async () => {
  await rig.worker({ HF_ENDPOINT: hubUrl });
  expect(asked).toEqual([]);
});

test('a model that cannot be loaded ends the worker with a line that says why; work gets 503 at once', async () => {
  const env = { MODEL: 'acme/nothing', HF_ENDPOINT: hubUrl, LOG_LEVEL: 'info' };
  const worker = rig.spawn(join(root, 'apps/worker/dist/main.js'), env);
  expect(await worker.exit()).toBe(1);
  const lines = worker.output.split('\n').filter((line) => line.includes('"level":60'));
  expect(lines).toHaveLength(1);
  expect(JSON.parse(lines[0] ?? '').msg).toMatch(
    /^The model acme\/nothing cannot be loaded: .*acme\/nothing/,
  );

  const [{ url }, key] = await Promise.all([rig.gateway(env), rig.key()]);
  expect((await request(`${url}/ready`)).body).toEqual({ status: 'ready', workers: 0 });
  const refused = await post(`${url}/predict`, key, { text: 'fine' });
  expect([refused.status, refused.body.code]).toEqual([503, 'no_worker']);
  expect(refused.ms).toBeLessThan(500);
});

test('a worker tells whoever watches it how it is, and a second one on the machine starts', async () => {
  const env = { WORKER_ADMIN_PORT: '0', MODEL_PROCESSES: '1' };
  const first = await rig.worker(env);
  const { adminPort } = await first.ready();
  const second = await rig.worker({ ...env, WORKER_ADMIN_PORT: String(adminPort) });
  expect((await second.ready()).adminPort).not.toBe(adminPort);
  const at = (path: string) => request(`http://127.0.0.1:${adminPort}${path}`);
  expect((await at('/health')).status).toBe(200);
  await until('it is ready', async () => (await at('/ready')).status === 200);
  process.kill(rig.redisPid, 'SIGSTOP');
  await until('it is not ready', async () => (await at('/ready')).status === 503);
  expect((await at('/health')).status).toBe(200);
  process.kill(rig.redisPid, 'SIGCONT');
  await until('it is ready again', async () => (await at('/ready')).status === 200);
});

const models = async (url: string, key: string) =>
  (await request(`${url}/models`, { headers: { 'X-API-Key': key } })).body;

test('what live workers say of the model is told', async () => {
  const [{ url }, key] = await Promise.all([rig.gateway(), rig.key()]);
  const known = { id: 'minilm-l6-sst2', task: 'text-classification', revision: 'main', default: true };
  expect(await models(url, key)).toEqual([
    { ...known, labels: null, max_tokens: null, dtype: null, runtime: null, batching: null, workers: 0 },
  ]);
  expect((await request(`${url}/models`)).status).toBe(401);
  const worker = await rig.worker({ MODEL_PROCESSES: '1' });
  await rig.worker({ MODEL_PROCESSES: '1' });
  const { version } = JSON.parse(
    readFileSync(join(root, 'node_modules/onnxruntime-node/package.json'), 'utf8'),
  );
  expect(await models(url, key)).toEqual([
    {
      ...known,
      labels: ['NEGATIVE', 'POSITIVE'],
      max_tokens: 512,
      dtype: 'q8',
      runtime: `onnxruntime ${version}`,
      batching: true,
      workers: 2,
    },
  ]);
  await worker.stop();
  expect((await models(url, key))[0].workers).toBe(1);
});

test('a model whose scores change with the company of a text is not batched, and says so', async () => {
  const remote = { MODEL: 'acme/dynamic', HF_ENDPOINT: hubUrl, MODEL_PROCESSES: '1' };
  const [{ url }, worker, key] = await Promise.all([rig.gateway(remote), rig.worker(remote), rig.key()]);
  expect(worker.output).toContain(
    'Scores of this model change with the company of a text: it is not batched',
  );
  expect((await models(url, key))[0]).toMatchObject({ batching: false, max_tokens: 128 });
  const texts = [
    'good',
    'the plot was bad but i loved it',
    'terrible',
    'good minute',
    'it is so bad',
    'loved this',
  ];
  const alone: unknown[] = [];
  for (const text of texts) alone.push((await post(`${url}/analyze`, key, { text, top_k: 2 })).body);
  const together = await Promise.all(texts.map((text) => post(`${url}/analyze`, key, { text, top_k: 2 })));
  expect(together.map(({ body }) => body)).toEqual(alone);
});
