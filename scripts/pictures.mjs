// Makes the pictures in docs/images. It starts its own servers:
//   node scripts/pictures.mjs                 both
//   node scripts/pictures.mjs screenshots     of the playground; needs Chromium (apt-get install chromium)
//   node scripts/pictures.mjs recording       of a job while worker and gateway are killed; needs script (util-linux)
import { prepare, root, run, SetupError } from './setup.mjs';

const [, , picture] = process.argv;
try {
  await prepare();
  for (const name of picture ? [picture] : ['screenshots', 'recording'])
    run(process.execPath, ['node_modules/tsx/dist/cli.mjs', `${root}tests/pictures/${name}.ts`]);
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(`✗ ${error.message}`);
  process.exitCode = 1;
}
