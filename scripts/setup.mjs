// Installs and builds what is missing or stale. Node built-ins only: this runs before anything is installed.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { lock } from './lock.mjs';

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

/** npm's own copy of the lock file. */
const INSTALLED_LOCK = 'node_modules/.package-lock.json';
/** Held by the process that installs and builds for the first time. */
const LOCK_FILE = join(root, '.sluice/setup.pid');
/** What the command lines of such processes contain. */
const SETUP_COMMANDS = ['start', 'sluice', 'test', 'bench', 'soak', 'pack', 'pictures'].map(
  (name) => `${name}.mjs`,
);
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'];

/** A problem that the user can fix; it is printed as one line. */
export class SetupError extends Error {}

/** Prints a line about the setup to standard error: standard output may be data. */
export const say = (line) => console.error(`• ${line}`);

/** Runs a command in the folder of the project and shows its output. Throws SetupError if it fails. */
export function run(command, args, env = process.env) {
  const { status, error, signal } = spawnSync(command, args, { cwd: root, stdio: 'inherit', env });
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
  const installed = readJson(INSTALLED_LOCK)?.packages;
  if (installed === undefined) return false;
  return Object.entries(wanted).every(([path, { version, link, optional, devOptional }]) => {
    if (!path.includes('node_modules/') || link || optional || devOptional) return true;
    return installed[path]?.version === version;
  });
}

/**
 * Runs a command of the setup and shows its output on standard error. When this process exits, also by Ctrl-C, the command is
 * killed: `npm ci` would continue for minutes, and disturb the next setup, which starts again. Throws SetupError if it fails.
 */
async function setUp(command, args) {
  let child;
  const kill = () => {
    try {
      process.kill(-child.pid, 'SIGKILL');
    } catch {
      // It has not started, or has ended.
    }
  };
  const onSignal = (signal) => process.exit(128 + constants.signals[signal]);
  // Before the lock is released.
  process.prependListener('exit', kill);
  for (const name of SIGNALS) process.on(name, onSignal);
  try {
    const stdio = ['ignore', process.stderr, process.stderr];
    // In its own process group, so that its children are killed with it.
    child = spawn(command, args, { cwd: root, stdio, detached: true });
    const [status, signal] = await once(child, 'exit');
    if (status !== 0) throw new Error(signal ?? `exit ${status}`);
  } catch (error) {
    throw new SetupError(`${command} ${args.join(' ')} failed (${error.message})`);
  } finally {
    process.off('exit', kill);
    for (const name of SIGNALS) process.off(name, onSignal);
  }
}

/** Waits until no other process installs, and takes the lock. */
async function lockSetup() {
  for (let isFirst = true; ; isFirst = false) {
    const holder = await lock(LOCK_FILE, SETUP_COMMANDS).catch((error) => {
      throw new SetupError(`Cannot install here: ${error.message}`);
    });
    if (holder === undefined) return;
    if (isFirst)
      say(`Waiting until process ${holder} has installed and built. If it does not, delete ${LOCK_FILE}`);
    await delay(500);
  }
}

async function build() {
  // Incremental: it takes a fraction of a second if nothing has changed.
  const apps = ['apps/gateway', 'apps/worker', 'apps/cli'];
  await setUp(process.execPath, ['node_modules/typescript/bin/tsc', '-b', ...apps]);
  const { bundle } = await import('./bundle.mjs');
  await bundle();
}

const isBuilt = () => existsSync(appFile('cli'));

/** Whether an installation and a build were completed, perhaps of an earlier version. npm writes its lock file last. */
export const wasPrepared = () => isPackage || (isBuilt() && existsSync(`${root}${INSTALLED_LOCK}`));

/** Installs the packages and builds the apps if necessary; a package has them. */
export async function prepare() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (major < MIN_NODE[0] || (major === MIN_NODE[0] && minor < MIN_NODE[1])) {
    throw new SetupError(`Node ${MIN_NODE.join('.')} or later is needed; this is ${process.versions.node}`);
  }
  if (isPackage) return;
  if (isInstalled() && isBuilt()) return build();
  await lockSetup();
  const unlock = () => rmSync(LOCK_FILE, { force: true });
  process.on('exit', unlock);
  try {
    if (!isInstalled()) {
      say('Installing packages from the lock file (about 1 GB; half a minute to a few minutes)');
      await setUp('npm', ['ci', '--include=dev']);
    }
    if (!isBuilt()) say('Building (about ten seconds)');
    await build();
  } finally {
    unlock();
    process.off('exit', unlock);
  }
}
