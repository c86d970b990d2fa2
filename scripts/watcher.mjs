// Ends the registered processes after its parent has died: see startWatcher in redis.mjs.
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { isRunning } from './lock.mjs';

/** Apps drain by themselves when their parent is gone; after this time they are killed. */
const drainMs = Number(process.argv[2]);
const STOP_MS = 10_000;

const groups = new Set();
const servers = new Set();

function signal(pid, name) {
  try {
    process.kill(pid, name);
  } catch {
    // It has already ended.
  }
}

async function untilGone(pids, withinMs) {
  const until = Date.now() + withinMs;
  while (Date.now() < until && pids.some((pid) => isRunning(pid))) await delay(50);
}

for await (const line of createInterface({ input: process.stdin })) {
  const { group, server, forget } = JSON.parse(line);
  if (group) groups.add(group);
  if (server) servers.add(server);
  groups.delete(forget);
  servers.delete(forget);
}

await untilGone([...groups], drainMs);
for (const leader of groups) signal(-leader, 'SIGKILL');
for (const server of servers) {
  signal(server, 'SIGTERM');
  signal(server, 'SIGCONT');
}
await untilGone([...servers], STOP_MS);
for (const server of servers) if (isRunning(server)) signal(server, 'SIGKILL');
