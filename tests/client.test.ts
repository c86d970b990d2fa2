import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import { root } from './harness.js';

// Outside the repository, so that nothing of it is found by accident.
const folder = mkdtempSync(join(tmpdir(), 'sluice-client-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function run(command: string, args: string[], cwd: string): string {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: 'utf8' });
  expect([status, status === 0 ? '' : `${stdout}${stderr}`]).toEqual([0, '']);
  return stdout;
}

test('the packed client can be installed in an empty folder, compiled against and run', () => {
  const [packed] = JSON.parse(
    run('npm', ['pack', '--json', '--pack-destination', folder], join(root, 'packages/client')),
  );
  const app = join(folder, 'app');
  mkdirSync(app);
  writeFileSync(join(app, 'package.json'), '{"type": "module"}');
  run('npm', ['install', '--no-audit', '--no-fund', join(folder, packed.filename)], app);
  writeFileSync(
    join(app, 'main.ts'),
    `import { type JobBody, type Prediction, Sluice, SluiceError } from '@sluice/client';
const sluice = new Sluice({ url: 'http://127.0.0.1:1', apiKey: 'key', retries: 0 });
export async function use(): Promise<[Prediction, JobBody | undefined]> {
  const { job_id } = await sluice.batch(['good', { id: 7, text: 'bad' }]);
  for await (const { text, sentiment, error } of sluice.results(job_id)) {
    const detail: string | undefined = sentiment ?? error?.detail ?? text;
    console.log(detail);
  }
  // @ts-expect-error: the types are not any
  const wrong: number = (await sluice.predict('fine')).sentiment;
  console.log(wrong);
  return [await sluice.predict('fine'), await sluice.end(job_id)];
}
use().catch((error: unknown) => console.log(error instanceof SluiceError, String(error)));
`,
  );
  const options = [
    '--module',
    'nodenext',
    '--target',
    'es2023',
    '--strict',
    '--lib',
    'es2023,dom,dom.iterable',
  ];
  run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), ...options, 'main.ts'], app);
  expect(run(process.execPath, ['main.js'], app)).toMatch(
    /^false ConnectionError: Cannot reach http:\/\/127\.0\.0\.1:1: /,
  );
});

test('the types of the client are those of the contract', () => {
  const script = `import { clientTypes } from './scripts/clientTypes.mjs'; process.stdout.write(await clientTypes());`;
  const types = run(process.execPath, ['--input-type=module', '-e', script], root);
  expect(types.length).toBeGreaterThan(1_000);
  expect(readFileSync(join(root, 'packages/client/src/api.ts'), 'utf8')).toBe(types);
});
