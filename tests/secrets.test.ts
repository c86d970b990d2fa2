import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { App, post, Rig, request, root, until } from './harness.js';

let rig: Rig;
beforeAll(async () => {
  rig = await Rig.start();
});
afterAll(() => rig.close());

const TEXT = 'a private sentence that nobody else may read';
/** What must not be found in any output, by what it is. */
const secrets = {
  devKey: 'the-development-key-of-the-test',
  adminToken: 'the-admin-token-of-the-test',
  redisPassword: 'the-redis-password-of-the-test',
  hubToken: 'hf_theTokenOfTheTest',
  wrongKey: 'a-wrong-key-that-somebody-tried',
};

test.each(['info', 'trace'])(
  'all that a full run prints at level %s holds no secret',
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
      const made = (await admin('POST', '', { name: 'test', limits: [{ limit: 1_000, window_seconds: 60 }] }))
        .body;
      const rotated = (await admin('POST', `/${made.key_id}/rotate`, { grace_seconds: 60 })).body;
      const keys = [made.key, rotated.key, secrets.devKey];
      for (const key of keys) {
        expect((await post(`${url}/predict`, key, { text: TEXT })).status).toBe(200);
        expect((await post(`${url}/analyze_batch`, key, { texts: [TEXT] })).status).toBe(202);
        expect(
          (await request(`${url}/items/`, { headers: { Authorization: `Bearer ${key}` } })).body.api_key,
        ).toBe(key);
      }
      // What callers get wrong: a key in the path or the query, a wrong one, a text that is none.
      await request(`${url}/items/${made.key}?api_key=${made.key}&text=${encodeURIComponent(TEXT)}`);
      await post(`${url}/predict`, secrets.wrongKey, { text: TEXT });
      await post(`${url}/predict`, made.key, { text: TEXT, timeout_seconds: 99 });
      await request(`${url}/predict`, {
        method: 'POST',
        headers: { 'X-API-Key': made.key, 'Content-Type': 'application/json' },
        body: TEXT,
      });
      await admin('DELETE', `/${made.key_id}`);
      await post(`${url}/predict`, rotated.key, { text: TEXT });
      // Errors of Redis name commands and connections.
      await rig.redis.call('CLIENT', 'KILL', 'TYPE', 'normal');
      await until(
        'it serves again',
        async () => (await post(`${url}/predict`, secrets.devKey, { text: 'fine' })).status !== 503,
      );
      await app.stop();
      // The one line that npm start prints for whoever started it.
      const output = app.output.replace(`-H 'X-API-Key: ${secrets.devKey}'`, '');
      for (const [what, secret] of Object.entries({ ...secrets, made: made.key, rotated: rotated.key })) {
        expect([what, output.includes(secret), output.includes(secret.slice(-32))]).toEqual([
          what,
          false,
          false,
        ]);
      }
      if (level === 'info') expect(output).not.toContain(TEXT);
      expect(output).toContain(made.key_id);
    } finally {
      await app.stop();
      await rig.redis.config('SET', 'requirepass', '');
    }
  },
  90_000,
);
