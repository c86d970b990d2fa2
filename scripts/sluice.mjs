// `npm run sluice -- COMMAND`: runs the CLI, and installs and builds first if that was never done or was interrupted.
// Node built-ins only: this runs before anything is installed.
import { pathToFileURL } from 'node:url';
import { appFile, prepare, SetupError, wasPrepared } from './setup.mjs';

try {
  if (!wasPrepared()) await prepare();
  // npm has changed to the folder of the project, but the paths of a command begin where the user is.
  if (process.env.npm_lifecycle_event === 'sluice' && process.env.INIT_CWD)
    process.chdir(process.env.INIT_CWD);
  await import(pathToFileURL(appFile('cli')).href);
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(`✗ ${error.message}`);
  process.exitCode = 1;
}
