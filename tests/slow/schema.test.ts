import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Rig, root } from '../harness.js';

/**
 * A sample has one case for each operation and kind of data, however long they take: in a fixed time a busy machine manages few. In
 * the full run schemathesis repeats its cases for 300 s.
 */
const extent = process.env.SECURITY_SAMPLE
  ? ['--phases', 'examples,fuzzing,stateful', '--max-examples', '1']
  : ['--max-time', '300'];
const folder = join(root, 'tests/slow/schemathesis');
const python = join(folder, '.venv/bin/python');

let rig: Rig;
beforeAll(async () => {
  if (!existsSync(python)) {
    for (const [command, ...args] of [
      ['python3', '-m', 'venv', join(folder, '.venv')],
      [python, '-m', 'pip', 'install', '-q', '-r', join(folder, 'requirements.txt')],
    ]) {
      expect(spawnSync(command ?? '', args, { stdio: 'inherit' }).status).toBe(0);
    }
  }
  rig = await Rig.start({ quiet: true });
}, 300_000);
afterAll(() => rig?.close());

test('schemathesis finds no response that the reference does not describe, with all checks', async () => {
  const tiny = (id: string, task: string) => ({
    id,
    task,
    source: join(root, 'tests/reference/models', id),
    dtype: 'fp32',
    processes: 1,
  });
  const env = {
    ...rig.models([
      tiny('bert-mean', 'feature-extraction'),
      tiny('bert-multi-label', 'text-classification'),
      tiny('roberta-rank', 'text-ranking'),
    ]),
    // Keeps texts below the models' token limit, which a schema cannot express.
    MAX_TEXT_CHARS: '30',
    AUTH_FAILURES_PER_MINUTE: '10000000',
    LOG_LEVEL: 'warn',
  };
  const { url } = await rig.gateway(env);
  await rig.worker(env);
  const key = await rig.key({
    limits: [{ limit: 1_000_000_000, windowSeconds: 60 }],
    bulkLimit: 1_000_000_000,
  });
  const run = spawn(
    python,
    [
      ...[
        '-m',
        'schemathesis.cli',
        '--config-file',
        join(folder, 'schemathesis.toml'),
        'run',
        `${url}/openapi.json`,
        '-H',
        `X-API-Key: ${key}`,
      ],
      // Replaced by our own check: the built-in one takes a canceled job for an erased one.
      ...['--checks', 'all', '--exclude-checks', 'use_after_free', '--seed', '1', '--continue-on-failure'],
      ...extent,
    ],
    {
      cwd: rig.folder,
      env: { PATH: process.env.PATH, HOME: rig.folder, PYTHONPATH: folder, SCHEMATHESIS_HOOKS: 'checks' },
    },
  );
  let output = '';
  for (const stream of [run.stdout, run.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  }
  const code = await new Promise((resolve) => run.once('close', resolve));
  // The summary, for the reader of the output.
  process.stdout.write(`${output.slice(code === 0 ? output.lastIndexOf('= SUMMARY =') - 40 : 0)}\n`);
  expect(code).toBe(0);
  expect(output).toMatch(/Test cases:\s+\d{3,} generated/);
}, 1_800_000);
