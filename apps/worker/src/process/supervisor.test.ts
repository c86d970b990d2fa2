import { afterEach, expect, test } from '@jest/globals';
import { modelSpecs, readSettings } from '@sluice/shared';
import { faultyCommand, faultyLoad, requestOf } from '../../../../tests/faulty/model.js';
import { loadMessage } from '../served/servedModel.js';
import { ModelProcess } from './supervisor.js';

const settings = readSettings({});
const load = loadMessage(modelSpecs(settings)[0], 'nowhere');

test.each<[string, readonly [string, ...string[]], RegExp]>([
  ['a program that does not exist', ['/no/such/program'], /ENOENT/],
  ['an argument that no system accepts', ['node\0'], /it could not be started: .*null bytes/],
  ['a program that exits', [process.execPath, '-e', 'process.exit(7)'], /it exited \(exit status 7\)/],
  [
    'a program that is killed',
    [process.execPath, '-e', 'process.kill(process.pid, "SIGKILL")'],
    /signal SIGKILL; out of memory\?/,
  ],
])('a model process of %s ends with its reason', async (_name, command, reason) => {
  const started = new ModelProcess(command, load, 10_000);
  await expect(started.ready).rejects.toThrow(reason);
  await started.gone;
  expect([started.mode, started.wasKilled]).toEqual(['killed', false]);
});

const started: ModelProcess[] = [];
afterEach(async () => {
  for (const process of started.splice(0)) {
    process.kill();
    await process.gone;
  }
});

/** A loaded process whose runs of marked texts are slow, hang or crash. */
async function loaded(): Promise<ModelProcess> {
  const model = new ModelProcess(faultyCommand, faultyLoad(), 30_000);
  started.push(model);
  await model.ready;
  return model;
}

test('a process takes one run ahead, whose time and budget begin when the run before it has ended', async () => {
  const model = await loaded();
  const starts: string[] = [];
  const first = model.run(requestOf('«slow:2000» first'), 10_000, () => starts.push('first'));
  expect(model.takesNext).toBe(true);
  // The budget of the second run is shorter than the first run takes.
  const second = model.run(requestOf('second'), 1_500, () => starts.push('second'));
  expect([model.takesNext, starts]).toEqual([false, ['first']]);
  await expect(model.run(requestOf('third'), 1_500)).rejects.toMatchObject({ kind: 'not_started' });
  const [one, two] = await Promise.all([first, second]);
  expect(starts).toEqual(['first', 'second']);
  expect(one.ms).toBeGreaterThanOrEqual(2_000);
  expect(two.ms).toBeLessThan(1_500);
  expect([one.results.length, two.results.length, model.mode]).toEqual([1, 1, 'ready']);
});

test('a large result is sent before the next run begins', async () => {
  for (const [text, kind] of [
    ['«hang»', 'hung'],
    ['«crash»', 'crashed'],
  ] as const) {
    const model = await loaded();
    const [large, next] = await Promise.allSettled([
      model.run(requestOf('«large»'), 5_000),
      model.run(requestOf(text), 500),
    ]);
    expect([large.status, next]).toMatchObject(['fulfilled', { reason: { kind } }]);
  }
});

test('when a run hangs or its process dies, the run after it has not started', async () => {
  for (const [text, kind] of [
    ['«hang»', 'hung'],
    ['«crash»', 'crashed'],
  ] as const) {
    const model = await loaded();
    const ends = await Promise.allSettled([
      model.run(requestOf(text), 300),
      model.run(requestOf('other'), 5_000),
    ]);
    expect(ends).toMatchObject([{ reason: { kind } }, { reason: { kind: 'not_started' } }]);
    expect(model.mode).toBe('killed');
  }
});
