import { expect, test } from '@jest/globals';
import { modelSpecs, readSettings } from '@sluice/shared';
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
