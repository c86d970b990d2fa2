// `npm run bench`: installs what is missing, and runs bench/main.ts with the arguments. `npm run simulate` runs bench/simulate/main.ts.
// Node built-ins only: this runs before anything is installed.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { ensureRedisServer } from './redis.mjs';
import { prepare, run, SetupError, say } from './setup.mjs';

/** wrk generates the load. It shares the machine with the servers, so it must use little processor time. */
function ensureWrk() {
  const has = () => spawnSync('wrk', ['--version'], { stdio: 'ignore' }).error === undefined;
  if (has()) return;
  if (process.getuid?.() === 0 && existsSync('/usr/bin/apt-get')) {
    say('Installing wrk');
    run('apt-get', ['update', '-q']);
    run('apt-get', ['install', '-yq', '--no-install-recommends', 'wrk']);
  }
  if (!has())
    throw new SetupError('The benchmark needs wrk (https://github.com/wg/wrk): apt-get or brew install wrk');
}

try {
  await prepare();
  ensureRedisServer();
  ensureWrk();
  const [, , first, ...others] = process.argv;
  const [program, args] =
    first === 'simulate' ? ['bench/simulate/main.ts', others] : ['bench/main.ts', process.argv.slice(2)];
  run(process.execPath, ['--import', 'tsx', program, ...args]);
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(`✗ ${error.message}`);
  process.exitCode = 1;
}
