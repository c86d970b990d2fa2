// Installs and builds what is missing or stale. Node built-ins only: this runs before anything is installed.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** The folder of the project, with a slash at its end. */
export const root = fileURLToPath(new URL('../', import.meta.url));

/**
 * What a Node that runs an app is started with. Node 24's own young generation, of 32 MB halves, lets a gateway under
 * load grow to 229 MB; with this it stays at 126 MB, and answers as many requests.
 */
export const NODE_FLAGS = ['--max-semi-space-size=8'];

const MIN_NODE = [20, 19];

/** Something is wrong that whoever started us can mend; its message is all they need. */
export class SetupError extends Error {}

/** Says a line about the set-up itself. */
export const say = (line) => console.log(`• ${line}`);

/** Runs a command in the project's folder, its output shown. Throws SetupError when it fails. */
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
    // Missing or cut short: to be installed.
    return undefined;
  }
}

/** Whether node_modules holds what the lock file says. npm keeps a lock file of its own in it. */
function isInstalled() {
  const wanted = readJson('package-lock.json')?.packages ?? {};
  const installed = readJson('node_modules/.package-lock.json')?.packages;
  if (installed === undefined) return false;
  return Object.entries(wanted).every(([path, { version, link, optional, devOptional }]) => {
    if (!path.includes('node_modules/') || link || optional || devOptional) return true;
    return installed[path]?.version === version;
  });
}

/** Installs from the lock file and builds the apps, where needed. */
export function prepare() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (major < MIN_NODE[0] || (major === MIN_NODE[0] && minor < MIN_NODE[1])) {
    throw new SetupError(`Node ${MIN_NODE.join('.')} or later is needed; this is ${process.versions.node}`);
  }
  if (!isInstalled()) {
    say('Installing packages from the lock file (about 700 MB; half a minute to a few minutes)');
    run('npm', ['ci', '--include=dev']);
  }
  // Incremental: a fraction of a second when nothing has changed.
  run(process.execPath, ['node_modules/typescript/bin/tsc', '-b', 'apps/gateway', 'apps/worker', 'apps/cli']);
}
