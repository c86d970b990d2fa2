import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { App, isRunning, root, temporary, until } from './harness.js';

/** A clone in which nothing is installed, with an `npm` that only says what it does. */
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(temporary, 'sluice-setup-'));
  cpSync(join(root, 'scripts'), join(folder, 'scripts'), { recursive: true });
  for (const name of ['package.json', 'package-lock.json']) cpSync(join(root, name), join(folder, name));
  mkdirSync(join(folder, 'bin'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const log = () => (existsSync(join(folder, 'log')) ? readFileSync(join(folder, 'log'), 'utf8') : '');
const npm = (script: string) =>
  writeFileSync(join(folder, 'bin/npm'), `#!/bin/sh\ncd '${folder}'\n${script}\n`, { mode: 0o755 });
const sluice = () =>
  new App(process.execPath, [join(folder, 'scripts/sluice.mjs'), '--version'], {
    PATH: `${join(folder, 'bin')}:${process.env.PATH}`,
  });

test('of two first setups one waits for the other', async () => {
  npm('echo begin >> log; until [ -e go ]; do sleep 0.1; done; echo end >> log; exit 3');
  const first = sluice();
  await until('npm runs', () => log() === 'begin\n');
  const second = sluice();
  await until('the second one waits', () => second.output.includes(`Waiting until process ${first.pid} has`));
  writeFileSync(join(folder, 'go'), '');
  for (const command of [first, second]) {
    expect(await command.exit()).toBe(1);
    expect(command.output).toContain('✗ npm ci --include=dev failed (exit 3)');
  }
  expect(log()).toBe('begin\nend\nbegin\nend\n');
});

test.each(['SIGINT', 'SIGTERM'] as const)('%s ends the setup with all its processes', async (signal) => {
  npm('sleep 60 & echo $! $$ > log; wait');
  const command = sluice();
  await until('npm runs', () => log().endsWith('\n'));
  const pids = log().trim().split(' ').map(Number);
  expect(pids.map((pid) => isRunning(pid))).toEqual([true, true]);
  command.child.kill(signal);
  expect(await command.exit()).toBe(signal === 'SIGINT' ? 130 : 143);
  await until('its processes are gone', () => !pids.some((pid) => isRunning(pid)));
  // Nothing holds the next one up.
  npm('exit 3');
  const next = sluice();
  expect(await next.exit()).toBe(1);
  expect(next.output).not.toContain('Waiting');
});
