import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { App, modelProcesses, post, Rig, request, root, until } from './harness.js';

let rig: Rig;
beforeAll(async () => {
  rig = await Rig.start();
});
afterAll(() => rig.close());

const TEXT = 'a private sentence that nobody else may read';
/** Secrets that no output may contain. */
const secrets = {
  devKey: 'the-development-key-of-the-test',
  adminToken: 'the-admin-token-of-the-test',
  redisPassword: 'the-redis-password-of-the-test',
  hubToken: 'hf_theTokenOfTheTest',
  wrongKey: 'a-wrong-key-that-somebody-tried',
};

test('a model process inherits no secret', async () => {
  const worker = await rig.worker({
    MODEL_PROCESSES: '1',
    ADMIN_TOKEN: secrets.adminToken,
    HF_TOKEN: secrets.hubToken,
    SOME_OTHER_SECRET: secrets.wrongKey,
  });
  const [pid] = await modelProcesses(worker);
  const variables = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
  const inherited = variables.map((variable) => variable.split('=', 1)[0]);
  expect(inherited).toContain('DATA_DIR');
  for (const name of ['REDIS_URL', 'ADMIN_TOKEN', 'HF_TOKEN', 'SOME_OTHER_SECRET'])
    expect(inherited).not.toContain(name);
  await worker.stop();
});

test('nothing of a text is in any output at the default level when the model fails on it', async () => {
  // A copy of the bundled model whose tokenizer gives an id that the model does not have.
  const broken = join(rig.folder, 'broken');
  cpSync(join(root, 'models/minilm-l6-sst2'), broken, { recursive: true });
  const file = join(broken, 'tokenizer.json');
  const tokenizer = JSON.parse(readFileSync(file, 'utf8'));
  tokenizer.model.vocab.private = 4_000_000;
  writeFileSync(file, JSON.stringify(tokenizer));
  const outputs: string[] = [];
  const models = rig.models([{ id: 'broken', task: 'text-classification', source: broken, processes: 1 }]);
  for (const LOG_LEVEL of ['info', 'debug']) {
    const env = { ...models, LOG_LEVEL };
    const [{ url, app }, worker, key] = await Promise.all([rig.gateway(env), rig.worker(env), rig.key()]);
    const answer = await post(`${url}/predict`, key, { text: TEXT, model: 'broken' });
    expect([answer.status, answer.body.code]).toEqual([500, 'analysis_failed']);
    await until('the line is logged', () => /Item failed when it ran alone/.test(worker.output));
    await Promise.all([worker.stop(), app.stop()]);
    outputs.push(app.output + worker.output);
  }
  const [usual = '', debug = ''] = outputs;
  const vocabulary = new Map(
    Object.entries<number>(tokenizer.model.vocab).map(([word, id]) => [String(id), word]),
  );
  /** The words for which an output contains the ids of their tokens, at least three in a row. */
  const decoded = (output: string) =>
    [...output.matchAll(/(?:\b\d{2,7}n?\b[^\da-z]{1,40}){3,}/gi)].map(([ids]) =>
      [...ids.matchAll(/\d+/g)].map(([id]) => vocabulary.get(id) ?? '?').join(' '),
    );
  const words = /private|sentence|nobody/;
  for (const text of [usual, ...decoded(usual)]) expect(text).not.toMatch(words);
  expect(usual).not.toContain('4000000');
  // The library does print it, which the level for debugging shows.
  expect(debug).toMatch(/Inputs given to model|4000000/);
});

test.each(['info', 'trace'])(
  'the output of a full run at level %s contains no secret',
  async (level) => {
    await rig.redis.config('SET', 'requirepass', secrets.redisPassword);
    const app = new App(process.execPath, [join(root, 'scripts/start.mjs')], {
      ...rig.env,
      DATA_DIR: join(rig.folder, `data-${level}`),
      REDIS_URL: rig.redisUrl.replace('redis://', `redis://:${secrets.redisPassword}@`),
      SLUICE_DEV_KEY: secrets.devKey,
      ADMIN_TOKEN: secrets.adminToken,
      HF_TOKEN: secrets.hubToken,
      MODEL_PROCESSES: '1',
      LOG_LEVEL: level,
    });
    try {
      await until('it is ready', () => /curl -X POST/.test(app.output), 60_000);
      const url = /curl -X POST (\S+)\/predict/.exec(app.output)?.[1] ?? '';
      const adminUrl = /(http:\S+)\/admin\/keys/.exec(app.output)?.[1] ?? '';
      const admin = (method: string, path: string, body?: object) =>
        request(`${adminUrl}/admin/keys${path}`, {
          method,
          headers: { Authorization: `Bearer ${secrets.adminToken}`, 'Content-Type': 'application/json' },
          ...(body ? { body: JSON.stringify(body) } : {}),
        });
      const created = (
        await admin('POST', '', { name: 'test', limits: [{ limit: 1_000, window_seconds: 60 }] })
      ).body;
      const rotated = (await admin('POST', `/${created.key_id}/rotate`, { grace_seconds: 60 })).body;
      const keys = [created.key, rotated.key, secrets.devKey];
      for (const key of keys) {
        expect((await post(`${url}/predict`, key, { text: TEXT })).status).toBe(200);
        expect((await post(`${url}/analyze_batch`, key, { texts: [TEXT] })).status).toBe(202);
        expect(
          (await request(`${url}/items/`, { headers: { Authorization: `Bearer ${key}` } })).body.api_key,
        ).toBe(key);
      }
      // Mistakes of callers: a key in the path or the query, a wrong key, an invalid body.
      await request(`${url}/items/${created.key}?api_key=${created.key}&text=${encodeURIComponent(TEXT)}`);
      for (const secret of [created.key, secrets.devKey, secrets.wrongKey]) {
        for (const path of [
          `/${secret}`,
          `/jobs/${secret}`,
          `/models/${secret}`,
          `/docs/assets/${secret}`,
          `/%${secret}`,
        ])
          await request(`${url}${path}`, { headers: { 'X-API-Key': created.key } });
        await request(`${adminUrl}/admin/keys/${secret}`, {
          headers: { Authorization: `Bearer ${secrets.adminToken}` },
        });
      }
      for (const key of [secrets.devKey, secrets.wrongKey])
        await request(`${url}/me`, { headers: { 'X-API-Key': key, 'X-Request-Id': key } });
      await post(`${url}/predict`, secrets.wrongKey, { text: TEXT });
      await post(`${url}/predict`, created.key, { text: TEXT, timeout_seconds: 99 });
      await request(`${url}/predict`, {
        method: 'POST',
        headers: { 'X-API-Key': created.key, 'Content-Type': 'application/json' },
        body: TEXT,
      });
      await admin('DELETE', `/${created.key_id}`);
      await post(`${url}/predict`, rotated.key, { text: TEXT });
      // Errors of Redis contain commands and connections.
      await rig.redis.call('CLIENT', 'KILL', 'TYPE', 'normal');
      await until(
        'requests are served again',
        async () => (await post(`${url}/predict`, secrets.devKey, { text: 'fine' })).status !== 503,
      );
      await app.stop();
      // The two lines in which npm start shows the key.
      const output = app.output
        .replace(`-H 'X-API-Key: ${secrets.devKey}'`, '')
        .replace(`  API key        ${secrets.devKey}\n`, '');
      for (const [what, secret] of Object.entries({
        ...secrets,
        created: created.key,
        rotated: rotated.key,
      })) {
        expect([what, output.includes(secret), output.includes(secret.slice(-32))]).toEqual([
          what,
          false,
          false,
        ]);
      }
      if (level === 'info') expect(output).not.toContain(TEXT);
      expect(output).toContain(created.key_id);
    } finally {
      await app.stop();
      await rig.redis.config('SET', 'requirepass', '');
    }
  },
  90_000,
);
