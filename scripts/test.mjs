// `npm test`: installs what is missing and runs jest. Arguments are passed to jest: `npm test -- keyring`.
// Node built-ins only: this runs before anything is installed.
import { ensureRedisServer } from './redis.mjs';
import { prepare, run, SetupError } from './setup.mjs';

try {
  await prepare();
  ensureRedisServer();
  const nodeOptions = `${process.env.NODE_OPTIONS ?? ''} --experimental-vm-modules --no-warnings=ExperimentalWarning`;
  run(process.execPath, ['node_modules/jest/bin/jest.js', ...process.argv.slice(2)], {
    ...process.env,
    NODE_OPTIONS: nodeOptions.trim(),
  });
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(`✗ ${error.message}`);
  process.exitCode = 1;
}
