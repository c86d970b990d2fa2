// Makes the pictures of the playground in docs/images, with a server of its own: node scripts/screenshots.mjs
// Needs Chromium (apt-get install chromium).
import { spawnSync } from 'node:child_process';
import { prepare, root } from './setup.mjs';

prepare();
const { status } = spawnSync(process.execPath, ['node_modules/tsx/dist/cli.mjs', 'tests/screenshots.ts'], {
  cwd: root,
  stdio: 'inherit',
});
process.exitCode = status ?? 1;
