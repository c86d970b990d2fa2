// Locks between the processes of a machine. Node built-ins only: this runs before anything is installed.
import { spawnSync } from 'node:child_process';
import { linkSync, mkdirSync, readFileSync, rmdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** A guard that is older was left by a dead process. */
const GUARD_MS = 5_000;

/**
 * Takes a lock, unless a process holds it. The lock file contains the id of its process and is never incomplete. The lock of
 * a dead process is removed under a guard, so that a new lock is never removed.
 * @param lockFile is removed by the caller at the end
 * @param commands what the command line of a holder may contain: its id may belong to another process by now
 * @returns the id of the process that holds it; undefined if the lock was taken
 * @throws what the file system throws
 */
export async function lock(lockFile, commands) {
  mkdirSync(dirname(lockFile), { recursive: true, mode: 0o700 });
  const ownFile = `${lockFile}.${process.pid}`;
  const guard = `${lockFile}.guard`;
  writeFileSync(ownFile, String(process.pid));
  try {
    while (!tryTo(() => linkSync(ownFile, lockFile))) {
      if (tryTo(() => mkdirSync(guard))) {
        try {
          const holder = readHolder(lockFile);
          if (holder === undefined) continue;
          if (holder !== process.pid && commands.some((command) => isRunning(holder, command))) return holder;
          // It may have been released meanwhile, and then be the lock of another process.
          if (readHolder(lockFile) === holder) rmSync(lockFile, { force: true });
        } finally {
          rmdirSync(guard);
        }
      } else if (Date.now() - statSync(guard, { throwIfNoEntry: false })?.mtimeMs > GUARD_MS) {
        tryTo(() => rmdirSync(guard)); // Its owner has died while it held the guard.
      } else await delay(50);
    }
    return undefined;
  } finally {
    rmSync(ownFile, { force: true });
  }
}

/**
 * Whether a process is running and its command line contains a word. A zombie does not count as running, because in a
 * container there may be no process that reaps it.
 */
export function isRunning(pid, word = '') {
  if (process.platform !== 'linux') {
    const { status, stdout } = spawnSync('ps', ['-ww', '-o', 'stat=,command=', '-p', String(pid)], {
      encoding: 'utf8',
    });
    return status === 0 && !stdout.trimStart().startsWith('Z') && stdout.includes(word);
  }
  try {
    const [, state] = /\) (\S)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? [];
    return state !== 'Z' && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(word);
  } catch {
    return false; // No such process.
  }
}

/** The process id in a lock file; undefined if there is no lock. */
function readHolder(lockFile) {
  let text;
  tryTo(() => {
    text = readFileSync(lockFile, 'utf8');
  });
  return text === undefined ? undefined : Number(text);
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
