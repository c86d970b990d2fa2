// Installs and builds what is missing or stale. Node built-ins only: this runs before anything is installed.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Folder of the program, with a trailing slash. */
export const root = fileURLToPath(new URL('../', import.meta.url));
/** Whether Sluice was installed as a package, and not cloned. */
const isPackage = root.includes('/node_modules/');
/** Folder of the user's `.env` and of `.sluice/`. */
export const home = isPackage ? process.cwd() : root;

/** The entry file of an app. */
export const appFile = (name) =>
  isPackage
    ? join(root, 'node_modules/@sluice', name, 'dist/main.js')
    : join(root, 'apps', name, 'bundle/main.js');

/**
 * Flags of Node for each app: the size of the young generation in MB. With 8 MB a gateway (64 clients, Node 24) spends 17 % of
 * its time on garbage collection, with 16 MB 9 %, and its resident memory stays below 200 MB. A worker makes less garbage.
 */
export const NODE_FLAGS = {
  gateway: ['--max-semi-space-size=16'],
  worker: ['--max-semi-space-size=8'],
};

const MIN_NODE = [20, 19];

/** A problem that the user can fix; it is printed as one line. */
export class SetupError extends Error {}

/** Prints a line about the setup to standard error: standard output may be data. */
export const say = (line) => console.error(`• ${line}`);

/** Runs a command in the folder of the project and shows its output. Throws SetupError if it fails. */
export function run(command, args, { env = process.env, stdout = 'inherit' } = {}) {
  const stdio = ['inherit', stdout, 'inherit'];
  const { status, error, signal } = spawnSync(command, args, { cwd: root, stdio, env });
  if (status !== 0) {
    throw new SetupError(
      `${command} ${args.join(' ')} failed (${error?.message ?? signal ?? `exit ${status}`})`,
    );
  }
}

function readJson(file) {
  try {
    return JSON.parse(readFileSync(`${root}${file}`, 'utf8'));
  } catch {
    // Missing or incomplete: npm has to install again.
    return undefined;
  }
}

/** Whether node_modules matches the lock file. npm writes its own lock file into node_modules. */
function isInstalled() {
  const wanted = readJson('package-lock.json')?.packages ?? {};
  const installed = readJson('node_modules/.package-lock.json')?.packages;
  if (installed === undefined) return false;
  return Object.entries(wanted).every(([path, { version, link, optional, devOptional }]) => {
    if (!path.includes('node_modules/') || link || optional || devOptional) return true;
    return installed[path]?.version === version;
  });
}

/** Installs the packages and builds the apps if necessary; a package has them. */
export async function prepare() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (major < MIN_NODE[0] || (major === MIN_NODE[0] && minor < MIN_NODE[1])) {
    throw new SetupError(`Node ${MIN_NODE.join('.')} or later is needed; this is ${process.versions.node}`);
  }
  if (isPackage) return;
  if (!isInstalled()) {
    say('Installing packages from the lock file (about 1 GB; half a minute to a few minutes)');
    run('npm', ['ci', '--include=dev'], { stdout: process.stderr });
  }
  if (!existsSync(appFile('gateway'))) say('Building (about ten seconds)');
  // Incremental: it takes a fraction of a second if nothing has changed.
  const apps = ['apps/gateway', 'apps/worker', 'apps/cli'];
  run(process.execPath, ['node_modules/typescript/bin/tsc', '-b', ...apps], { stdout: process.stderr });
  const { bundle } = await import('./bundle.mjs');
  await bundle();
}
