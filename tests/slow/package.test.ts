import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { App, post, request, root, until } from '../harness.js';

/** An empty folder into which the package of the server is installed. */
let folder: string;
let app: App | undefined;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'sluice-package-'));
  run(process.execPath, join(root, 'scripts/pack.mjs'));
  const [tarball = ''] = readdirSync(folder).filter((name) => name.endsWith('.tgz'));
  writeFileSync(join(folder, 'package.json'), '{"private": true}');
  run('npm', 'install', '--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline', `./${tarball}`);
}, 300_000);
afterAll(async () => {
  await app?.stop();
  rmSync(folder, { recursive: true, force: true });
});

function run(command: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: folder, encoding: 'utf8', env });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${status}:\n${stdout}${stderr}`);
  return stdout;
}

const env = { PATH: process.env.PATH, HOME: process.env.HOME, SLUICE_DEV_KEY: 'a-key-of-the-package' };

test('the package of the server starts in an empty folder, with its models, page and command', async () => {
  // npx runs this file.
  const command = join(folder, 'node_modules/.bin/sluice');
  app = new App(
    command,
    ['start'],
    { ...env, PORT: '0', ADMIN_PORT: '0', WORKER_ADMIN_PORT: '0', MODEL_PROCESSES: '1' } as Record<
      string,
      string
    >,
    false,
    folder,
  );
  const { output } = app;
  await until('it is ready', () => app?.output.includes('Sluice is ready') ?? false, 60_000).catch(
    (error) => {
      throw new Error(`${error}\n${app?.output ?? output}`);
    },
  );
  const [, url = ''] = /curl -X POST (\S+)\/predict/.exec(app.output) ?? [];
  const { status, body } = await post(`${url}/predict`, env.SLUICE_DEV_KEY, { text: 'I love it' });
  expect([status, body.sentiment]).toEqual([200, 'positive']);
  const embedded = await post(`${url}/v1/embeddings`, env.SLUICE_DEV_KEY, {
    model: 'all-minilm-l6-v2',
    input: 'I love it',
  });
  expect(embedded.body.data[0].embedding).toHaveLength(384);
  for (const path of ['/', '/docs', '/playground/main.js', '/playground/client/index.js'])
    expect([path, (await request(`${url}${path}`)).status]).toEqual([path, 200]);

  writeFileSync(join(folder, 'texts.txt'), 'I love it\nIt broke\n');
  run(command, 'batch', 'texts.txt', '-o', 'results.csv');
  expect(run('cat', 'results.csv').trim().split('\n')).toHaveLength(3);
  expect(run(command, 'jobs', '--all')).toContain('completed');
  expect(app.output).toContain('npx sluice batch');
  app.child.kill('SIGTERM');
  expect(await app.exit()).toBe(0);
}, 120_000);

test('the package contains no sources, tests or local paths', () => {
  const [tarball = ''] = readdirSync(folder).filter((name) => name.endsWith('.tgz'));
  const files = run('tar', 'tzf', tarball).trim().split('\n');
  expect(
    files.filter((file) =>
      /(?<!examples\/batch)\.ts$|\.(map|tsbuildinfo)$|\/tests?\/|node_modules\/(?!@sluice\/)/.test(file),
    ),
  ).toEqual([]);
  expect(files.length).toBeGreaterThan(200);
  const unpacked = run('tar', 'xzOf', tarball, 'package/package.json');
  expect(JSON.parse(unpacked).dependencies.zod).toMatch(/^\d+\.\d+\.\d+$/);
  expect(unpacked).not.toContain(root);
});
