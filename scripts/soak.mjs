// `npm run soak`: installs what is missing, and runs tests/soak/main.ts with the arguments.
// Node built-ins only: this runs before anything is installed.
import { ensureRedisServer } from './redis.mjs';
import { prepare, run, SetupError } from './setup.mjs';

try {
  await prepare();
  ensureRedisServer();
  run(process.execPath, ['--import', 'tsx', 'tests/soak/main.ts', ...process.argv.slice(2)]);
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(`✗ ${error.message}`);
  process.exitCode = 1;
}
