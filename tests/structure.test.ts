import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { root } from './harness.js';

// Imports between folders are checked by dependency-cruiser (`npm run lint`). These tests check names.

/** The folders that look into inputs and outputs: tasks, their runners, and what clients see. */
const TASK_FOLDERS =
  /^(packages\/(tasks|contract|client|tables|playground)\/|apps\/cli\/|apps\/worker\/src\/model\/tasks\/|apps\/gateway\/src\/api\/)/;

const sources = spawnSync('git', ['ls-files', 'apps', 'packages'], { cwd: root, encoding: 'utf8' })
  .stdout.split('\n')
  .filter((file) => /\/src\/.*\.(ts|lua)$/.test(file) && !file.endsWith('.test.ts'));

/** Lines of a file that match, as `file:line text`. */
function linesWith(file: string, pattern: RegExp): string[] {
  return readFileSync(join(root, file), 'utf8')
    .split('\n')
    .flatMap((line, i) => (pattern.test(line) ? [`${file}:${i + 1} ${line.trim()}`] : []));
}

test('only tasks and APIs name labels, scores or sentiments', () => {
  // Not Redis commands such as ZRANGEBYSCORE, nor the `labelNames` of metrics.
  const names = /label(?!Names)|(?<!by|z)score|sentiment|top_?k/i;
  const found = (files: string[]) => files.flatMap((file) => linesWith(file, names));
  expect(found(sources.filter((file) => !TASK_FOLDERS.test(file)))).toEqual([]);
  // The pattern finds these names where they belong.
  expect(found(sources.filter((file) => TASK_FOLDERS.test(file))).length).toBeGreaterThan(50);
});

test('only the model specs read the settings of a model', () => {
  const name = '(MODELS_FILE|MODEL|MODEL_\\w+|MICRO_BATCH_\\w+|STALL_SECONDS)\\b';
  // As a property, or by destructuring.
  const reads = new RegExp(`(settings|env)\\.${name}|\\{[^}]*\\b${name}.*\\} = `);
  const readers = sources.filter((file) => linesWith(file, reads).length > 0);
  expect(readers).toEqual(['packages/shared/src/config/models.ts']);
});

test('the architecture lists every folder of the apps', () => {
  const page = readFileSync(join(root, 'docs/architecture.md'), 'utf8');
  for (const app of ['gateway', 'worker']) {
    const folders = new Set(
      sources.flatMap((file) => new RegExp(`^apps/${app}/src/(\\w+)/`).exec(file)?.[1] ?? []),
    );
    const entry = new RegExp(`^\\| \`apps/${app}\` \\|.*$`, 'm').exec(page)?.[0] ?? '';
    const listed = [...entry.matchAll(/`(\w+)\/`/g)].map(([, folder]) => folder);
    expect(new Set(listed)).toEqual(folders);
  }
});
