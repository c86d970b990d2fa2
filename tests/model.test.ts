import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { generate } from 'selfsigned';
import { post, Rig, request, root, until, workerMain } from './harness.js';
import { COMMIT, Hub, urlOf } from './hub.js';

const HUB_TOKEN = 'a-token-for-the-mirror';
const REFERENCE = join(root, 'tests/reference/models');

/** Models in the layout of the Hub: the bundled one as `acme/sentiment`, the one of tests/data/dynamic.py, and tiny ones. */
let hub: Hub;
beforeAll(async () => {
  const main = { main: COMMIT };
  hub = await Hub.start({
    'acme/sentiment': { folder: join(root, 'models/minilm-l6-sst2'), revisions: main },
    'acme/pinned': { folder: join(REFERENCE, 'bert-labels'), revisions: { v1: COMMIT } },
    'acme/tiny': { folder: join(REFERENCE, 'bert-labels'), revisions: main },
    'acme/private': { folder: join(REFERENCE, 'bert-labels'), revisions: main, token: HUB_TOKEN },
    'acme/external': { folder: join(REFERENCE, 'bert-external'), revisions: main },
    'acme/sentence': { folder: join(REFERENCE, 'bert-mean'), revisions: main },
    'acme/dynamic': { folder: join(root, 'tests/data/dynamic'), revisions: main },
  });
});
afterAll(() => hub.close());

let rig: Rig;
beforeEach(async () => {
  rig = await Rig.start();
  hub.requested = [];
});
afterEach(() => rig.close());

test('a model from the Hub is downloaded with progress, stored, and loaded again without the Hub', async () => {
  const remote = { MODEL: 'acme/sentiment', HF_ENDPOINT: hub.url, MODEL_PROCESSES: '2' };
  const [{ url }, worker, key] = await Promise.all([rig.gateway(remote), rig.worker(remote), rig.key()]);
  expect(worker.output).toMatch(/Loading acme\/sentiment: onnx\/model_quantized\.onnx, .* of 23\.5 MB/);
  expect(hub.requested.filter((line) => line.endsWith('.onnx'))).toEqual([
    `GET /acme/sentiment/resolve/${COMMIT}/onnx/model_quantized.onnx`,
  ]);
  // Its README is not needed.
  expect(hub.requested.filter((line) => line.endsWith('.md'))).toEqual([]);
  const answer = await post(`${url}/predict`, key, {
    text: 'This product is amazing!',
    model: 'acme/sentiment',
  });
  expect([answer.status, answer.body.sentiment]).toEqual([200, 'positive']);
  expect((await models(url, key))[0]).toMatchObject({ revision: COMMIT });
  const { job_id: id } = (await post(`${url}/analyze_batch`, key, { texts: ['fine'] })).body;
  const job = await request(`${url}/jobs/${id}`, { headers: { 'X-API-Key': key } });
  expect(job.body.revision).toBe(COMMIT);

  await worker.stop();
  hub.requested = [];
  await rig.worker({ ...remote, HF_ENDPOINT: 'http://127.0.0.1:9' });
  expect(hub.requested).toEqual([]);
  expect((await post(`${url}/predict`, key, { text: 'This product is amazing!' })).body).toMatchObject({
    confidence: answer.body.confidence,
  });
});

test('a pinned revision is loaded, also when there is no branch "main"', async () => {
  await rig.worker({
    MODEL: 'acme/pinned',
    MODEL_DTYPE: 'fp32',
    MODEL_REVISION: 'v1',
    HF_ENDPOINT: hub.url,
    MODEL_PROCESSES: '1',
  });
  expect(hub.requested).toContain('GET /api/models/acme/pinned/revision/v1');
  expect(hub.requested.filter((line) => line.includes('main'))).toEqual([]);
});

test('the token reaches the mirror that HF_ENDPOINT names, and no other origin', async () => {
  const env = { MODEL: 'acme/private', MODEL_DTYPE: 'fp32', HF_ENDPOINT: hub.url, MODEL_PROCESSES: '1' };
  const refused = rig.spawn(workerMain, env);
  expect(await refused.exit()).toBe(1);
  expect(refused.output).toMatch(/has no model acme\/private, or it needs an HF_TOKEN with access/);
  hub.tokens.hub.clear();
  hub.tokens.storage.clear();
  await rig.worker({ ...env, HF_TOKEN: HUB_TOKEN });
  expect([...hub.tokens.hub]).toEqual([`Bearer ${HUB_TOKEN}`]);
  expect([...hub.tokens.storage]).toEqual([undefined]);
});

test('a download goes through the proxy that HTTPS_PROXY names', async () => {
  const { private: privateKey, cert } = await generate([{ name: 'commonName', value: 'hub.test' }], {
    extensions: [{ name: 'subjectAltName', altNames: [{ type: 2, value: 'hub.test' }] }],
  });
  const certificate = join(rig.folder, 'hub.pem');
  writeFileSync(certificate, cert);
  const secure = createSecureServer({ key: privateKey, cert }, hub.serve);
  const tunnels: string[] = [];
  // Only the proxy can reach hub.test.
  const proxy = createServer().on('connect', (incoming, socket: Socket, head) => {
    tunnels.push(incoming.url ?? '');
    const name = incoming.url === 'hub.test:443' ? urlOf(secure) : `http://${incoming.url}`;
    const onward = connect(Number(new URL(name).port), '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 Connection Established\r\n\r\n');
      onward.write(head);
      socket.pipe(onward).pipe(socket);
    });
    for (const each of [socket, onward]) each.on('error', () => each.destroy());
  });
  for (const server of [secure, proxy])
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  try {
    await rig.worker({
      MODEL: 'acme/external',
      MODEL_DTYPE: 'fp32',
      MODEL_PROCESSES: '1',
      HF_ENDPOINT: 'https://hub.test',
      HTTPS_PROXY: urlOf(proxy),
      NODE_EXTRA_CA_CERTS: certificate,
    });
    expect(tunnels).toContain('hub.test:443');
  } finally {
    for (const server of [secure, proxy]) {
      server.closeAllConnections();
      server.close();
    }
  }
});

/** Files that an earlier start has stored. */
const stored = (model: string) => {
  const folder = join(rig.folder, 'models', model, COMMIT);
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((file) => /\.\w+$/.test(file))
    .map((file) => join(folder, file));
};

test.each([
  ['half a file', (file: string) => truncateSync(file, 100)],
  ['an HTML page', (file: string) => writeFileSync(file, '<!doctype html><title>Sign in</title>')],
])('%s in the place of each stored file is named and downloaded again', async (_, damage) => {
  const env = { MODEL: 'acme/external', MODEL_DTYPE: 'fp32', HF_ENDPOINT: hub.url, MODEL_PROCESSES: '1' };
  await (await rig.worker(env)).stop();
  expect(stored('acme/external').map((file) => file.split('/').at(-1))).toContain('model.onnx_data');
  for (const file of stored('acme/external')) damage(file);
  const worker = await rig.worker(env);
  for (const file of stored('acme/external'))
    expect(worker.output).toMatch(
      new RegExp(`"file":"${file}".*damaged or incomplete; downloading it again`),
    );
});

test('weights that are damaged but of the right size are named, removed and downloaded at the next start', async () => {
  const env = { MODEL: 'acme/tiny', MODEL_DTYPE: 'fp32', HF_ENDPOINT: hub.url, MODEL_PROCESSES: '1' };
  await (await rig.worker(env)).stop();
  const [weights = ''] = stored('acme/tiny').filter((file) => file.endsWith('.onnx'));
  writeFileSync(weights, Buffer.alloc(readFileSync(weights).length, '<html>'));
  const worker = rig.spawn(workerMain, env);
  expect(await worker.exit()).toBe(1);
  expect(worker.output).toContain(`${weights} was damaged; the next start downloads it again`);
  await rig.worker(env);
});

test.each([
  ['an HTML page instead of a file', Buffer.from('<!doctype html>')],
  ['nothing', Buffer.alloc(0)],
])('a download that gives %s is refused with its name', async (_, instead) => {
  const env = { MODEL: 'acme/tiny', MODEL_DTYPE: 'fp32', HF_ENDPOINT: hub.url, MODEL_PROCESSES: '1' };
  hub.instead.set('tokenizer.json', instead);
  const worker = rig.spawn(workerMain, env);
  expect(await worker.exit()).toBe(1);
  expect(worker.output).toMatch(/the download of tokenizer\.json is not the file that the Hub lists/);
  hub.instead.clear();
  await rig.worker(env);
});

test('the files of sentence-transformers come along, so that an embedding model needs no settings', async () => {
  const env = {
    ...rig.models([{ id: 'acme/sentence', task: 'feature-extraction', dtype: 'fp32', processes: 1 }]),
    HF_ENDPOINT: hub.url,
  };
  const [{ url }, , key] = await Promise.all([rig.gateway(env), rig.worker(env), rig.key()]);
  const [model] = await models(url, key);
  expect(model).toMatchObject({ dimensions: 32, max_tokens: 48 });
});

test('the bundled model is loaded without a request to the Hub', async () => {
  await rig.worker({ HF_ENDPOINT: hub.url });
  expect(hub.requested).toEqual([]);
});

test('a model that cannot be loaded ends the worker with one line; requests get 503 at once', async () => {
  const env = { MODEL: 'acme/nothing', HF_ENDPOINT: hub.url, LOG_LEVEL: 'info' };
  const worker = rig.spawn(workerMain, env);
  expect(await worker.exit()).toBe(1);
  const lines = worker.output.split('\n').filter((line) => line.includes('"level":60'));
  expect(lines).toHaveLength(1);
  expect(JSON.parse(lines[0] ?? '').msg).toMatch(
    /^The model acme\/nothing cannot be loaded: .*acme\/nothing/,
  );

  const [{ url }, key] = await Promise.all([rig.gateway(env), rig.key()]);
  expect((await request(`${url}/ready`)).body).toEqual({ status: 'ready', workers: 0, storage: 'ok' });
  const refused = await post(`${url}/predict`, key, { text: 'fine' });
  expect([refused.status, refused.body.code]).toEqual([503, 'no_worker']);
  // Its deadline is 20 s.
  expect(refused.ms).toBeLessThan(5_000);
});

test('a worker has health checks, and a second worker on the same machine starts', async () => {
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

test('GET /models shows what live workers report', async () => {
  const [{ url }, key] = await Promise.all([rig.gateway(), rig.key()]);
  const known = {
    id: 'minilm-l6-sst2',
    aliases: [],
    task: 'text-classification',
    parameters: expect.objectContaining({ type: 'object' }),
    dimensions: null,
    error: null,
    revision: 'main',
    default: true,
    max_text_chars: 10_000,
  };
  expect(await models(url, key)).toEqual([
    {
      ...known,
      labels: null,
      max_tokens: null,
      dtype: null,
      runtime: null,
      batching: null,
      drift: null,
      workers: 0,
    },
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
      drift: 0,
      workers: 2,
    },
  ]);
  await worker.stop();
  expect((await models(url, key))[0].workers).toBe(1);
});

test('a model whose scores change with batching is not batched, which the log and GET /models show', async () => {
  const remote = { MODEL: 'acme/dynamic', HF_ENDPOINT: hub.url, MODEL_PROCESSES: '1' };
  const [{ url }, worker, key] = await Promise.all([rig.gateway(remote), rig.worker(remote), rig.key()]);
  expect(worker.output).toContain('Batching disabled: outputs change by more than 0.0001 with batching');
  const [model] = await models(url, key);
  expect(model).toMatchObject({ batching: false, max_tokens: 128 });
  expect(model.drift).toBeGreaterThan(1e-4);
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
