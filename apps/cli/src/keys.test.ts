import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { isLive, Keyring, keyIdOf } from '@sluice/shared';
import { cliMain, Rig, root } from '../../../tests/harness.js';

let rig: Rig;
beforeAll(async () => {
  rig = await Rig.start();
});
afterAll(() => rig.close());

/** Runs `sluice`; resolves to its output and exit status. */
function sluice(args: string[], env: Record<string, string> = {}) {
  return new Promise<{ code: number | null; out: string; err: string }>((resolve) => {
    const child = spawn(process.execPath, [cliMain, ...args], {
      env: { PATH: process.env.PATH, REDIS_URL: rig.redisUrl, ...env },
    });
    let [out, err] = ['', ''];
    child.stdout.on('data', (data) => {
      out += data;
    });
    child.stderr.on('data', (data) => {
      err += data;
    });
    child.on('close', (code) => resolve({ code, out, err }));
  });
}

test('keys can be created, listed and revoked', async () => {
  const options = ['--limit', '5', '--window', '10', '--bulk', '0', '--scope', 'predict', '--expires', '90d'];
  const created = await sluice(['keys', 'create', '--name', 'acme', ...options, '--json']);
  const key = JSON.parse(created.out);
  expect(key).toMatchObject({
    key: expect.stringMatching(/^sk_[0-9a-f]{12}_/),
    key_id: expect.stringMatching(/^[0-9a-f]{12}$/),
    name: 'acme',
    status: 'live',
    scopes: ['predict'],
    limits: [{ limit: 5, window_seconds: 10 }],
    bulk_limit: 0,
  });
  expect(Date.parse(key.expires_at) - Date.parse(key.created_at)).toBe(90 * 86_400_000);

  const listed = await sluice(['keys', 'list']);
  expect(listed.out).toMatch(new RegExp(`${key.key_id} +live +predict +5/10s .* acme`));
  expect(listed.out).not.toContain(key.key);

  const forever = await sluice(['keys', 'update', key.key_id, '--expires', 'never', '--json']);
  expect(JSON.parse(forever.out)).toMatchObject({ status: 'live', expires_at: null });

  const revoked = await sluice(['keys', 'revoke', key.key_id]);
  expect([revoked.code, revoked.out]).toEqual([0, `Revoked ${key.key_id} (acme)\n`]);
  expect(JSON.parse((await sluice(['--json', 'keys', 'list'])).out)).toMatchObject([{ status: 'revoked' }]);
});

test('ensure creates a key once, stores it privately, and replaces a revoked one', async () => {
  const file = join(rig.folder, 'keys/first');
  const ensure = ['keys', 'ensure', '--name', 'first', '--key-file', file];
  const both = await Promise.all([sluice(ensure), sluice(ensure)]);
  expect(both.map(({ code }) => code)).toEqual([0, 0]);
  expect(both[0]?.out).toBe(both[1]?.out);
  expect(readFileSync(file, 'utf8')).toBe(both[0]?.out);
  expect(statSync(file).mode & 0o777).toBe(0o600);

  const id = both[0]?.out.split('_')[1] ?? '';
  await sluice(['keys', 'revoke', id]);
  const next = await sluice(ensure);
  expect([next.code, next.out === both[0]?.out, readFileSync(file, 'utf8') === next.out]).toEqual([
    0,
    false,
    true,
  ]);

  // The name has a key, but the file does not contain its secret.
  const lost = await sluice(['keys', 'ensure', '--name', 'first', '--key-file', `${file}.other`]);
  expect([lost.code, lost.out]).toEqual([1, '']);
  expect(lost.err).toMatch(/does not contain its secret/);

  // The key of a restored file is registered again.
  writeFileSync(`${file}.restored`, 'sk_0123456789ab_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n', { mode: 0o600 });
  const restored = await sluice([
    'keys',
    'ensure',
    '--name',
    'restored',
    '--key-file',
    `${file}.restored`,
    '--json',
  ]);
  expect(JSON.parse(restored.out)).toMatchObject({ key_id: '0123456789ab', status: 'live' });
});

test('a file without a key is refused with one line', async () => {
  writeFileSync(join(rig.folder, 'odd'), 'hello\nworld', { mode: 0o600 });
  for (const file of [join(rig.folder, 'odd'), rig.folder]) {
    const { code, out, err } = await sluice(['keys', 'ensure', '--name', 'odd', '--key-file', file]);
    expect([code, out, err.trim().split('\n').length]).toEqual([1, '', 1]);
  }
});

test.each([
  [['keys', 'create'], /--name/],
  [['keys', 'create', '--name', ' '], /--name/],
  [['keys', 'create', '--name', 'x', '--limit', '0'], /--limit/],
  [['keys', 'create', '--name', 'x', '--window', '5'], /each --window needs a --limit/],
  [['keys', 'create', '--name', 'x', '--scope', 'all'], /predict and batch/],
  [['keys', 'create', '--name', 'x', '--expires', 'soon'], /45s, 30m, 24h, 90d or 2w/],
  [['keys', 'create', '--name', 'x', '--expires', '999999999w'], /up to ten years/],
  [['keys', 'create', '--name', 'x', '--limit', '5', '--window', '9007199254740991'], /31536000/],
  [['keys', 'usage', 'nobody'], /12 hex digits/],
  [['keys', 'frobnicate'], /unknown command/],
])('%j is a usage error', async (args, message) => {
  const { code, out, err } = await sluice(args);
  expect([code, out]).toEqual([2, '']);
  expect(err).toMatch(message);
});

test('errors name the reason, but not the password of Redis', async () => {
  expect(await sluice(['keys', 'revoke', 'ffffffffffff'])).toMatchObject({
    code: 1,
    err: 'sluice: No key has the id ffffffffffff\n',
  });
  const away = await sluice(['keys', 'list'], { REDIS_URL: 'redis://:hunter2@127.0.0.1:9' });
  expect(away.code).toBe(1);
  expect(away.err).toMatch(/redis:\/\/\*\*\*@127\.0\.0\.1:9 does not answer/);
});

test('of the development keys of a folder only the one in use is live; an earlier one can be used again', async () => {
  const DATA_DIR = join(rig.folder, 'development');
  const use = async (supplied?: string) => {
    const env = { DATA_DIR, ...(supplied === undefined ? {} : { SLUICE_DEV_KEY: supplied }) };
    const { out, err } = await sluice(['keys', 'development', '--json'], env);
    return err === '' ? (JSON.parse(out) as { key: string; key_id: string }) : err;
  };
  const keyring = new Keyring(rig.redis);
  const isUsable = async (key: string) => {
    const record = await keyring.find(key, Date.now());
    return record !== undefined && isLive(record, Date.now());
  };
  const generated = ((await use()) as { key: string }).key;
  for (const [supplied, live] of [
    ['first-development-key', 'first-development-key'],
    ['second-development-key', 'second-development-key'],
    ['first-development-key', 'first-development-key'],
    [undefined, generated],
  ] as const) {
    expect(await use(supplied)).toMatchObject({ key: live });
    for (const key of ['first-development-key', 'second-development-key', generated])
      expect([key, await isUsable(key)]).toEqual([key, key === live]);
  }
  await keyring.revoke(keyIdOf('second-development-key'), Date.now());
  expect(await use('second-development-key')).toMatch(/SLUICE_DEV_KEY: this key was revoked/);
});

test('exported keys work after an import into an empty Redis, and a second import changes nothing', async () => {
  const create = async (...args: string[]) =>
    JSON.parse((await sluice(['keys', 'create', '--json', ...args])).out) as { key: string; key_id: string };
  const [plain, rotated, revoked] = await Promise.all([
    create('--name', 'plain', '--limit', '7', '--window', '30', '--unit', 'texts', '--expires', '90d'),
    create('--name', 'rotated'),
    create('--name', 'revoked', '--scope', 'batch'),
  ]);
  // More keys than one group of an import.
  await Promise.all(Array.from({ length: 120 }, () => rig.key()));
  const { key: renewed } = JSON.parse(
    (await sluice(['keys', 'rotate', rotated.key_id, '--grace', '1h', '--json'])).out,
  );
  await sluice(['keys', 'revoke', revoked.key_id]);
  const { webhook_secret: secret } = JSON.parse(
    (await sluice(['keys', 'webhook-secret', plain.key_id, '--json'])).out,
  );
  const file = join(rig.folder, 'backup.json');
  const exported = await sluice(['keys', 'export', '--output', file]);
  expect(exported.err).toMatch(
    new RegExp(`^sluice: the secrets that sign webhooks are not in the backup.*${plain.key_id}\n$`),
  );
  const text = readFileSync(file, 'utf8');
  for (const part of [plain.key, renewed, secret].map((key: string) => key.slice(-20)))
    expect(text).not.toContain(part);
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect((await sluice(['keys', 'export', '--output', file])).code).toBe(2);
  expect((await sluice(['keys', 'export', '--output', '-'])).out).toBe(text);
  expect((await sluice(['keys', 'export', '--output', join(rig.folder, 'missing/x')])).err).toMatch(
    /^sluice: --output: cannot write .*: no such file or directory\n$/,
  );
  const before = JSON.parse((await sluice(['keys', 'list', '--json'])).out);

  await rig.redis.flushall();
  // Some editors begin a file with a byte order mark.
  writeFileSync(file, `\uFEFF${text}`);
  expect(JSON.parse((await sluice(['keys', 'import', file, '--json'])).out).imported).toHaveLength(
    before.length,
  );
  const after = JSON.parse((await sluice(['keys', 'list', '--json'])).out);
  expect(after).toEqual(before.map((key: object) => ({ ...key, last_used_at: null })));
  const keyring = new Keyring(rig.redis);
  for (const key of [plain.key, rotated.key, renewed])
    expect(await keyring.find(key, Date.now())).toBeDefined();
  expect((await keyring.find(plain.key, Date.now()))?.webhookSecret).toBeUndefined();

  const again = JSON.parse((await sluice(['keys', 'import', file, '--json'])).out);
  expect([again.imported, again.unchanged.length]).toEqual([[], before.length]);
  // A key that was revoked since the export stays revoked.
  await sluice(['keys', 'revoke', plain.key_id]);
  const late = await sluice(['keys', 'import', file]);
  expect([late.code, late.err]).toEqual([
    1,
    expect.stringContaining(`were not changed: ${plain.key_id}. To see them, run `),
  ]);
  expect((await keyring.read(plain.key_id))?.revokedAtMs).toBeDefined();
});

test.each([
  ['not JSON', 'nothing', /is not JSON/],
  ['another file', '{"keys": []}', /is not a backup of keys/],
  [
    'a key with a secret instead of a hash',
    '{"format": "sluice-keys", "version": 1, "keys": [{"id": "0123456789ab", "hash": "secret"}]}',
    /keys\[0\]\.hash/,
  ],
  [
    'a key that occurs twice',
    JSON.stringify({
      format: 'sluice-keys',
      version: 1,
      keys: Array.from({ length: 2 }, () => ({
        id: '0123456789ab',
        hash: 'a'.repeat(64),
        name: 'twice',
        scopes: ['predict'],
        limits: [],
        bulk_limit: 1,
        created_at_ms: 1,
      })),
    }),
    /the id occurs twice/,
  ],
])('%s is not imported', async (_what, content, message) => {
  const file = join(rig.folder, 'wrong.json');
  writeFileSync(file, content);
  const before = await rig.redis.dbsize();
  const { code, err } = await sluice(['keys', 'import', file]);
  expect(code).toBe(2);
  expect(err).toMatch(message);
  expect(await rig.redis.dbsize()).toBe(before);
});

test('a key file that other users can read is refused with the command to protect it', async () => {
  const file = join(rig.folder, 'open.key');
  const ensure = ['keys', 'ensure', '--name', 'open', '--key-file', file];
  const { out } = await sluice(ensure);
  chmodSync(file, 0o644);
  const refused = await sluice(ensure);
  expect([refused.code, refused.err]).toEqual([
    1,
    `sluice: ${file} can be read by other users of this machine; run: chmod 600 ${file}\n`,
  ]);
  chmodSync(file, 0o600);
  expect((await sluice(ensure)).out).toBe(out);
  const { status } = spawnSync('git', ['check-ignore', 'first.key'], { cwd: root });
  expect(status).toBe(0);
});
