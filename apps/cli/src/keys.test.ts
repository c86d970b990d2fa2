import { spawn } from 'node:child_process';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { cliMain, Rig } from '../../../tests/harness.js';

let rig: Rig;
beforeAll(async () => {
  rig = await Rig.start();
});
afterAll(() => rig.close());

/** Runs `sluice`; resolves to what it prints and its exit status. */
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

test('create, list and revoke', async () => {
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

  const revoked = await sluice(['keys', 'revoke', key.key_id]);
  expect([revoked.code, revoked.out]).toEqual([0, `Revoked ${key.key_id} (acme)\n`]);
  expect(JSON.parse((await sluice(['--json', 'keys', 'list'])).out)).toMatchObject([{ status: 'revoked' }]);
});

test('ensure makes a key once, keeps it private, and replaces one that was revoked', async () => {
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

  // The name has a key, whose secret is not where we look.
  const lost = await sluice(['keys', 'ensure', '--name', 'first', '--key-file', `${file}.other`]);
  expect([lost.code, lost.out]).toEqual([1, '']);
  expect(lost.err).toMatch(/does not hold its secret/);

  // A file that is restored into an empty Redis is registered again.
  writeFileSync(`${file}.restored`, 'sk_0123456789ab_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n');
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

test('a file that holds no key is refused in a line', async () => {
  writeFileSync(join(rig.folder, 'odd'), 'hello\nworld');
  for (const file of [join(rig.folder, 'odd'), rig.folder]) {
    const { code, out, err } = await sluice(['keys', 'ensure', '--name', 'odd', '--key-file', file]);
    expect([code, out, err.trim().split('\n').length]).toEqual([1, '', 1]);
  }
});

test.each([
  [['keys', 'create'], /--name/],
  [['keys', 'create', '--name', ' '], /--name/],
  [['keys', 'create', '--name', 'x', '--limit', '0'], /--limit/],
  [['keys', 'create', '--name', 'x', '--window', '5'], /each --window goes with a --limit/],
  [['keys', 'create', '--name', 'x', '--scope', 'all'], /predict and batch/],
  [['keys', 'create', '--name', 'x', '--expires', 'soon'], /45s, 30m, 24h, 90d or 2w/],
  [['keys', 'create', '--name', 'x', '--expires', '999999999w'], /up to ten years/],
  [['keys', 'create', '--name', 'x', '--limit', '5', '--window', '9007199254740991'], /31536000/],
  [['keys', 'frobnicate'], /unknown command/],
])('%j is wrong use', async (args, message) => {
  const { code, out, err } = await sluice(args);
  expect([code, out]).toEqual([2, '']);
  expect(err).toMatch(message);
});

test('what fails says why, without the password of a Redis', async () => {
  expect(await sluice(['keys', 'revoke', 'nobody'])).toMatchObject({
    code: 1,
    err: 'sluice: No key has the id nobody\n',
  });
  const away = await sluice(['keys', 'list'], { REDIS_URL: 'redis://:hunter2@127.0.0.1:9' });
  expect(away.code).toBe(1);
  expect(away.err).toMatch(/redis:\/\/\*\*\*@127\.0\.0\.1:9 does not answer/);
});
