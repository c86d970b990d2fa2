// `npm run sluice -- COMMAND`: runs the CLI, and installs and builds first if that was never done.
// Node built-ins only: this runs before anything is installed.
import { existsSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { appFile, prepare, SetupError } from './setup.mjs';

try {
  if (!existsSync(appFile('cli'))) await prepare();
  await import(pathToFileURL(appFile('cli')).href);
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(`✗ ${error.message}`);
  process.exitCode = 1;
}
