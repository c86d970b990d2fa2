// The lock of a folder, so that only one `npm start` runs in it.
// Node built-ins only: this runs before anything is installed.
import {
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { isRunning } from './redis.mjs';
import { SetupError } from './setup.mjs';

/** A guard that is older was left by a dead process. */
const GUARD_MS = 5_000;

/** What the command line of a start contains; the kernel separates arguments with NUL. */
const START_COMMANDS = [
  'start.mjs',
  ...['sluice', 'sluice.mjs', 'main.js'].flatMap((file) => [`${file}\0start`, `${file} start`]),
];

/**
 * Allows one `npm start` per folder, because two would share its Redis. The lock file contains the id of its process and
 * is never incomplete. The lock of a dead process is removed under a guard, so that a new lock is never removed.
 * @param lockFile is removed by the caller at the end
 */
export async function lock(lockFile) {
  try {
    mkdirSync(dirname(lockFile), { recursive: true, mode: 0o700 });
  } catch (error) {
    throw new SetupError(`DATA_DIR: ${error.message}`);
  }
  const ownFile = `${lockFile}.${process.pid}`;
  const guard = `${lockFile}.guard`;
  writeFileSync(ownFile, String(process.pid));
  try {
    while (!tryTo(() => linkSync(ownFile, lockFile))) {
      if (tryTo(() => mkdirSync(guard))) {
        const holder = existsSync(lockFile) ? Number(readFileSync(lockFile, 'utf8')) : 0;
        const held = holder !== process.pid && START_COMMANDS.some((command) => isRunning(holder, command));
        if (!held) rmSync(lockFile, { force: true });
        rmdirSync(guard);
        if (held) {
          throw new SetupError(`Sluice already runs in this folder (process ${holder}); stop it first`);
        }
      } else if (Date.now() - statSync(guard, { throwIfNoEntry: false })?.mtimeMs > GUARD_MS) {
        tryTo(() => rmdirSync(guard)); // Its owner has died while it held the guard.
      } else await delay(50);
    }
  } finally {
    rmSync(ownFile, { force: true });
  }
}

/** Runs an action; returns false if it fails because the file exists, or does not exist any more. */
export function tryTo(action) {
  try {
    action();
    return true;
  } catch (error) {
    if (['EEXIST', 'ENOENT'].includes(error.code)) return false;
    throw error;
  }
}
