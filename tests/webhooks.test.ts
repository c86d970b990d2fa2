import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { keyIdOf } from '@sluice/shared';
import OpenAI, { toFile } from 'openai';
import { generate } from 'selfsigned';
import { Webhook } from 'standardwebhooks';
import { App, cliMain, type Env, post, Rig, request, root, until } from './harness.js';

interface Delivery {
  headers: Record<string, string>;
  body: string;
  atMs: number;
}

/** A receiver of webhooks on this machine. */
class Receiver {
  readonly deliveries: Delivery[] = [];
  /** What it answers; the status, or nothing at all. */
  answer: (n: number, response: ServerResponse) => void = (_n, response) =>
    response.writeHead(200).end('thanks');
  atOnce = 0;
  mostAtOnce = 0;
  #server = createServer((incoming, response) => void this.#receive(incoming, response));

  async start(): Promise<string> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/hook?secret=in-the-url`;
  }

  stop(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  async #receive(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    this.mostAtOnce = Math.max(this.mostAtOnce, ++this.atOnce);
    response.on('close', () => this.atOnce--);
    let body = '';
    for await (const part of incoming) body += part;
    this.deliveries.push({ headers: incoming.headers as Record<string, string>, body, atMs: Date.now() });
    this.answer(this.deliveries.length, response);
  }
}

const tiny = {
  id: 'bert-mean',
  task: 'feature-extraction',
  source: join(root, 'tests/reference/models/bert-mean'),
  dtype: 'fp32',
  processes: 1,
};

let rig: Rig;
let gateway: { app: App; url: string };
let env: Env;
beforeAll(async () => {
  rig = await Rig.start();
  env = { ...rig.models([tiny]), WEBHOOK_ALLOW_PRIVATE: 'true', WEBHOOK_RETRY_SECONDS: '0.1,0.1,0.1,0.1' };
  [gateway] = await Promise.all([rig.gateway(env), rig.worker(env)]);
});
afterAll(() => rig.close());

let receiver: Receiver;
let hook: string;
beforeEach(async () => {
  receiver = new Receiver();
  hook = await receiver.start();
});
afterEach(() => receiver.stop());

/** A key with a signing secret. */
async function keyWithSecret(options = {}): Promise<{ key: string; secret: string }> {
  const key = await rig.key(options);
  const secret = `whsec_${Buffer.from('a secret of twenty-four!').toString('base64')}`;
  await rig.redis.hset(`{sluice}:key:${keyIdOf(key)}`, 'webhook_secret', secret);
  return { key, secret };
}
const submit = (key: string, url = hook, more = {}) =>
  post(`${gateway.url}/analyze_batch`, key, {
    texts: ['a', 'b'],
    model: 'bert-mean',
    webhook: { url },
    ...more,
  });
const log = () => gateway.app.output;
const nothingLeft = () =>
  until('outbox and queue are empty', async () => {
    const names = await rig.redis.keys('*');
    return !names.some((name) => /:outbox$|:webhooks:(evt_|wait|delayed|active)/.test(name));
  });

test('a receiver is notified once when a job ends, with a Standard Webhooks signature', async () => {
  const { key, secret } = await keyWithSecret();
  const { body } = await submit(key);
  await until('it is delivered', () => receiver.deliveries.length > 0);
  const [{ headers, body: text }] = receiver.deliveries as [Delivery];
  const event = new Webhook(secret).verify(text, headers);
  expect(event).toEqual({
    id: `evt_${body.job_id.replaceAll('-', '')}`,
    object: 'event',
    type: 'job.completed',
    created_at: expect.any(Number),
    data: { id: body.job_id },
  });
  expect(headers).toMatchObject({
    'content-type': 'application/json',
    'webhook-id': (event as { id: string }).id,
  });
  expect(() =>
    new Webhook(`whsec_${Buffer.from('another').toString('base64')}`).verify(text, headers),
  ).toThrow();
  await nothingLeft();
  expect(receiver.deliveries).toHaveLength(1);
  // A URL may hold a secret.
  expect(log()).not.toContain('in-the-url');
  expect(log()).not.toContain(secret);
});

test('a receiver is notified of an NDJSON job, a canceled job, and a job that failed too', async () => {
  const { key } = await keyWithSecret();
  const headers = { 'X-API-Key': key, 'Content-Type': 'application/x-ndjson' };
  const body = `${JSON.stringify({ batch: { model: 'bert-mean', webhook: { url: hook } } })}\n"a"\n`;
  expect((await request(`${gateway.url}/analyze_batch`, { method: 'POST', headers, body })).status).toBe(202);
  const models = rig.models([{ ...tiny, id: 'idle' }]);
  const alone = await rig.gateway({ ...env, ...models, BATCH_TIMEOUT_SECONDS: '1' });
  const idle = { texts: ['a'], model: 'idle', webhook: { url: hook } };
  const canceled = await post(`${alone.url}/analyze_batch`, key, idle);
  await request(`${alone.url}/jobs/${canceled.body.job_id}/cancel`, { method: 'POST', headers });
  await post(`${alone.url}/analyze_batch`, key, idle);
  await until('all are delivered', () => receiver.deliveries.length >= 3);
  expect(receiver.deliveries.map(({ body: text }) => JSON.parse(text).type).sort()).toEqual([
    'job.canceled',
    'job.completed',
    'job.failed',
  ]);
  await alone.app.stop();
});

test('the URL of a key is notified of its OpenAI batches, and OpenAI’s client verifies the event', async () => {
  const { key, secret } = await keyWithSecret({ webhookUrl: hook });
  const client = new OpenAI({
    apiKey: key,
    baseURL: `${gateway.url}/v1`,
    maxRetries: 0,
    webhookSecret: secret,
  });
  const line = {
    custom_id: 'a',
    method: 'POST',
    url: '/v1/embeddings',
    body: { model: 'bert-mean', input: 'a' },
  };
  const create = async (text: string) => {
    const file = await client.files.create({
      file: await toFile(Buffer.from(text), 'a.jsonl'),
      purpose: 'batch',
    });
    return client.batches.create({
      input_file_id: file.id,
      endpoint: '/v1/embeddings',
      completion_window: '24h',
    });
  };
  const batch = await create(JSON.stringify(line));
  const refused = await create('{');
  await until('both are delivered', () => receiver.deliveries.length >= 2);
  const events = await Promise.all(
    receiver.deliveries.map(({ body, headers }) => client.webhooks.unwrap(body, headers)),
  );
  expect(events).toEqual(
    expect.arrayContaining([
      expect.objectContaining({ type: 'batch.completed', data: { id: batch.id } }),
      expect.objectContaining({ type: 'batch.failed', data: { id: refused.id } }),
    ]),
  );
});

describe('receivers', () => {
  test('a receiver that fails gets the event again, with the same id and a new signature, until it accepts it', async () => {
    const { key, secret } = await keyWithSecret();
    receiver.answer = (n, response) => {
      if (n === 1) response.writeHead(500).end();
      else if (n === 2) response.writeHead(302, { Location: hook }).end();
      else if (n === 3) response.destroy();
      else response.writeHead(204).end();
    };
    await submit(key);
    await until('it is accepted', () => receiver.deliveries.length >= 4);
    await nothingLeft();
    expect(receiver.deliveries).toHaveLength(4);
    expect(new Set(receiver.deliveries.map(({ headers }) => headers['webhook-id'])).size).toBe(1);
    for (const { body, headers } of receiver.deliveries) new Webhook(secret).verify(body, headers);
  });

  test('a receiver that is down for all attempts is abandoned, with a line in the log', async () => {
    const { key } = await keyWithSecret();
    receiver.stop();
    const { body } = await submit(key);
    const id = `evt_${body.job_id.replaceAll('-', '')}`;
    await until('it is given up', () =>
      log()
        .split('\n')
        .some(
          (line) =>
            line.includes(id) && line.includes('Webhook delivery abandoned') && line.includes('"attempt":5'),
        ),
    );
    await nothingLeft();
  });

  test('a receiver that answers 410 gets nothing more', async () => {
    const { key } = await keyWithSecret();
    receiver.answer = (_n, response) => response.writeHead(410).end();
    await submit(key);
    await until('it is given up', () => log().includes('The receiver answered 410'));
    await nothingLeft();
    expect(receiver.deliveries).toHaveLength(1);
  });

  test('a slow receiver has at most four deliveries of a key at once, over all gateways', async () => {
    const { key } = await keyWithSecret();
    const other = await rig.gateway(env);
    const waiting: ServerResponse[] = [];
    receiver.answer = (_n, response) => void waiting.push(response);
    for (let i = 0; i < 8; i++) await submit(key);
    await until('four are under way', () => receiver.atOnce === 4);
    // The others wait: time for some attempts.
    await until(
      'the others were tried',
      async () => (await rig.redis.zcard('{sluice}:webhooks:delayed')) > 0,
    );
    receiver.answer = (_n, response) => response.writeHead(200).end();
    for (const response of waiting) response.writeHead(200).end();
    await until('all are delivered', () => receiver.deliveries.length === 8);
    expect(receiver.mostAtOnce).toBe(4);
    await other.app.stop();
  });

  test('a receiver whose body never ends is not waited for', async () => {
    const { key } = await keyWithSecret();
    receiver.answer = (_n, response) => {
      response.writeHead(200);
      const timer = setInterval(() => response.write('x'.repeat(1024)), 5);
      response.on('close', () => clearInterval(timer));
    };
    await submit(key);
    await until('it is delivered', () => receiver.deliveries.length === 1);
    await nothingLeft();
    expect(receiver.deliveries).toHaveLength(1);
  });
});

test('a revoked key sends nothing', async () => {
  const { key } = await keyWithSecret();
  // The key is revoked before the first attempt has failed, so before the next one.
  receiver.answer = async (n, response) => {
    await rig.redis.hset(`{sluice}:key:${keyIdOf(key)}`, 'revoked_at_ms', '1');
    response.writeHead(n === 1 ? 500 : 200).end();
  };
  await submit(key);
  await until('the first attempt is made', () => receiver.deliveries.length === 1);
  await nothingLeft();
  expect(receiver.deliveries).toHaveLength(1);
});

test('an event is delivered although its gateway is killed between the end of the job and the delivery, and in the delivery', async () => {
  const { key } = await keyWithSecret();
  const doomed = await rig.gateway(env);
  receiver.answer = (n) => {
    // In the delivery: nothing is answered, and the gateways are gone.
    if (n === 1) for (const { app } of [doomed, gateway]) app.child.kill('SIGKILL');
  };
  await submit(key);
  await until('the first attempt has begun', () => receiver.deliveries.length === 1);
  receiver.answer = (_n, response) => response.writeHead(200).end();
  // And between: an entry that no gateway has moved yet.
  const idle = await submitDirect(key);
  gateway = await rig.gateway(env);
  await until('both are delivered', () => receiver.deliveries.length >= 3, 60_000);
  const ids = receiver.deliveries.map(({ headers }) => headers['webhook-id']);
  expect(new Set(ids)).toEqual(new Set([ids[0], `evt_${idle}`]));
  await nothingLeft();
}, 90_000);

/** Appends an entry as the scripts of the ledger do, while no gateway is there. */
async function submitDirect(key: string): Promise<string> {
  const entry = {
    job: '00000000-0000-4000-8000-000000000000',
    key: keyIdOf(key),
    status: 'completed',
    reason: '',
    at: Date.now(),
    webhook: JSON.stringify({ url: hook, kind: 'job' }),
  };
  await rig.redis.rpush('{sluice}:outbox', JSON.stringify(entry));
  return entry.job.replaceAll('-', '');
}

describe('without WEBHOOK_ALLOW_PRIVATE', () => {
  let strict: { app: App; url: string };
  beforeAll(async () => {
    strict = await rig.gateway({ ...env, WEBHOOK_ALLOW_PRIVATE: '' });
  });
  afterAll(() => strict.app.stop());

  test.each([
    ['a webhook with http:', 'http://example.com/', /https/],
    ['a webhook with another scheme', 'ftp://example.com/', /https/],
    ['a webhook with credentials', 'https://a:b@example.com/', /user name/],
    ['a webhook to this machine', 'https://127.0.0.1/', /private/],
    ['a webhook to this machine in decimal', 'https://2130706433/', /private/],
    ['a webhook to this machine by name', 'https://localhost:8000/', /private/],
    ['a webhook to the address of cloud metadata', 'https://[::ffff:169.254.169.254]/', /private/],
    ['a webhook that is not a URL', 'nonsense', /must be a URL/],
  ])('%s is refused at submission', async (_name, url, detail) => {
    const { key } = await keyWithSecret();
    const body = { texts: ['a'], model: 'bert-mean', webhook: { url } };
    const answer = await post(`${strict.url}/analyze_batch`, key, body);
    expect([answer.status, answer.body.errors]).toEqual([
      422,
      [{ pointer: '/webhook/url', detail: expect.stringMatching(detail) }],
    ]);
  });

  test('a key without a signing secret is told how to get one', async () => {
    const key = await rig.key();
    const body = { texts: ['a'], model: 'bert-mean', webhook: { url: 'https://1.1.1.1/' } };
    const answer = await post(`${strict.url}/analyze_batch`, key, body);
    expect([answer.status, answer.body.errors[0].detail]).toEqual([
      422,
      expect.stringContaining(`sluice keys webhook-secret ${keyIdOf(key)}`),
    ]);
  });

  test('a webhook is not sent if its host resolves to a private address at delivery', async () => {
    // Accepted by a gateway that allows it, as if the name had meant another address then.
    const { cert, private: privateKey } = await generate([{ name: 'commonName', value: 'localhost' }]);
    let connections = 0;
    const server = createHttpsServer({ cert, key: privateKey });
    server.on('connection', () => connections++);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    await gateway.app.stop();
    const { key } = await keyWithSecret();
    for (const [i, host] of ['localhost', '127.0.0.1', '[::ffff:127.0.0.1]'].entries()) {
      await rig.redis.rpush(
        '{sluice}:outbox',
        JSON.stringify({
          job: `${i}0000000-0000-4000-8000-000000000001`,
          key: keyIdOf(key),
          status: 'completed',
          reason: '',
          at: Date.now(),
          webhook: JSON.stringify({ url: `https://${host}:${port}/`, kind: 'job' }),
        }),
      );
    }
    await until(
      'all are given up',
      () => (strict.app.output.match(/not (?:a )?public.*Webhook delivery abandoned/g) ?? []).length >= 3,
    );
    expect(connections).toBe(0);
    server.close();
    gateway = await rig.gateway(env);
  });
});

test('the CLI makes and shows a signing secret, and sets the URL of a key', async () => {
  const cli = async (...args: string[]) => {
    const main = cliMain;
    const app = new App(process.execPath, [main, ...args, '--json'], rig.env);
    app.ready().catch(() => {});
    await app.exit();
    return JSON.parse(app.output);
  };
  const created = await cli('keys', 'create', '--name', 'hooks', '--webhook', 'https://example.com/hook');
  expect(created).toMatchObject({ webhook_url: 'https://example.com/hook' });
  const first = await cli('keys', 'webhook-secret', created.key_id);
  expect(first.webhook_secret).toMatch(/^whsec_[A-Za-z0-9+/]{32}$/);
  expect(await cli('keys', 'webhook-secret', created.key_id)).toEqual(first);
  expect((await cli('keys', 'webhook-secret', created.key_id, '--new')).webhook_secret).not.toBe(
    first.webhook_secret,
  );
  expect((await cli('keys', 'update', created.key_id, '--webhook', 'none')).webhook_url).toBeNull();
});
