import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root, temporary } from '../harness.js';
import type { Violation } from './checker.js';
import type { FaultKind } from './faults.js';

const WORKER = 'apps/worker/bundle/worker.js';
const GATEWAY = 'apps/gateway/bundle/gateway.js';
const STORE = 'packages/shared/src/jobs/store.lua';
const WINDOW = 'apps/gateway/src/limits/slidingWindow.lua';

/** A build that is broken on purpose, to show that the checker would find the fault. */
export interface Build {
  name: string;
  what: string;
  /** What the checker must report, at least one of these. */
  violates: readonly Violation[];
  /** The only kinds of faults that show it. Without them: all kinds. */
  kinds?: readonly FaultKind[];
  changes: readonly { file: string; find: string; replace: string }[];
}

export const BUILDS: readonly Build[] = [
  {
    name: 'stored-twice',
    what: 'a chunk that runs twice is stored and counted twice',
    violates: ['job-results', 'job-counts', 'item-error'],
    changes: [
      {
        file: STORE,
        find: `if live(status) and redis.call('HSETNX', keys.results, chunk, ARGV[4]) == 1 then`,
        replace: `if live(status) and redis.call('HSET', keys.results, chunk, ARGV[4]) >= 0 then`,
      },
    ],
  },
  {
    name: 'reply-dropped',
    what: 'a worker drops one reply in fifty',
    violates: ['failed-in-quiet'],
    changes: [
      {
        file: WORKER,
        find: 'async #add(gatewayId, replies) {',
        replace:
          'async #add(gatewayId, replies) { globalThis.added = (globalThis.added ?? 0) + 1; if (globalThis.added % 50 === 0) return;',
      },
    ],
  },
  {
    name: 'fixed-window',
    what: 'the window of a limit begins anew at fixed times',
    violates: ['limit-exceeded'],
    changes: [
      {
        file: WINDOW,
        find: 'tonumber(entries[i]) <= now - window.length do',
        replace: 'tonumber(entries[i]) < math.floor(now / window.length) * window.length do',
      },
    ],
  },
  {
    name: 'chunk-lost-at-drain',
    what: 'a worker that drains drops its chunks, and no sweep puts them into the queue again',
    violates: ['job-not-ended'],
    changes: [
      {
        file: WORKER,
        find: 'message.moveToWait(token)',
        replace: 'message.moveToCompleted(void 0, token, false)',
      },
      {
        file: WORKER,
        find: 'const finished = this.#loop.then(() => Promise.all(this.#works));',
        replace: 'const finished = Promise.resolve();',
      },
      { file: GATEWAY, find: 'await enqueueChunks(model.bulkQueue, [ref]);', replace: ';' },
    ],
  },
  {
    name: 'webhook-forgotten',
    what: 'one event in five is removed from the outbox without a delivery',
    violates: ['webhook-missing'],
    changes: [
      {
        file: GATEWAY,
        find: 'for (const text of await redis.lrange(names.outbox, 0, MOVED_AT_ONCE - 1)) {',
        replace:
          'for (const text of await redis.lrange(names.outbox, 0, MOVED_AT_ONCE - 1)) { if (Math.random() < 0.2) { await redis.lrem(names.outbox, 1, text); continue; }',
      },
    ],
  },
  {
    name: 'result-overwritten',
    what: 'a worker stores the results of a chunk again after 3 s, in another order',
    violates: ['result-changed'],
    changes: [
      {
        file: STORE,
        find: `if live(status) and redis.call('HSETNX'`,
        replace: `if redis.call('HEXISTS', keys.results, chunk) == 1 then redis.call('HSET', keys.results, chunk, ARGV[4]) end\nif live(status) and redis.call('HSETNX'`,
      },
      {
        file: WORKER,
        find: 'const { ended, handedOut } = await ledger.store(job, chunk, items, results, maxInFlight());',
        replace:
          'const { ended, handedOut } = await ledger.store(job, chunk, items, results, maxInFlight()); setTimeout(() => ledger.store(job, chunk, items, [...results].reverse(), maxInFlight()).catch(() => {}), 3e3);',
      },
    ],
  },
  {
    name: 'written-after-cancel',
    what: 'results are stored although their job was canceled',
    violates: ['changed-after-cancel', 'job-counts'],
    changes: [
      {
        file: STORE,
        find: `if live(status) and redis.call('HSETNX'`,
        replace: `if (live(status) or status == 'canceled') and redis.call('HSETNX'`,
      },
    ],
  },
  {
    name: 'usage-twice',
    what: 'a report of usage that is repeated counts again',
    violates: ['usage-counted-twice'],
    changes: [
      {
        file: 'packages/shared/src/keys/usage.lua',
        find: `if tonumber(redis.call('GET', KEYS[1]) or '0') >= tonumber(ARGV[1]) then return {} end`,
        replace: '',
      },
    ],
  },
  {
    name: 'fence-removed',
    what: 'a command that arrives late takes a slot for a request that has been answered with 503',
    violates: ['limit-refused-early'],
    kinds: ['pause Redis'],
    changes: [{ file: WINDOW, find: 'if notAfter and now > notAfter * 1000 then', replace: 'if false then' }],
  },
  {
    name: 'acknowledged-before-write',
    what: 'a gateway answers 202 before Redis has the job',
    violates: ['job-lost'],
    changes: [
      {
        file: GATEWAY,
        find: 'return acceptReply.parse(await this.#redis.acceptJob(',
        replace:
          'return ((sent) => { sent.catch(() => {}); return { kind: "accepted", handedOut: [] }; })(this.#redis.acceptJob(',
      },
    ],
  },
];

/** Copies the present build, and breaks the copy. @throws Error if a change does not fit the code of the bundles */
export function makeBuild({ name, changes }: Build): { path: string; remove: () => void } {
  const path = mkdtempSync(join(temporary, 'sluice-build-'));
  for (const folder of ['apps', 'packages']) {
    const isOwn = (file: string) => !file.includes('node_modules');
    cpSync(join(root, folder), join(path, folder), { recursive: true, filter: isOwn });
  }
  for (const entry of ['models', 'node_modules', 'package.json', 'models.json'])
    symlinkSync(join(root, entry), join(path, entry));
  for (const { file, find, replace } of changes) {
    const text = readFileSync(join(path, file), 'utf8');
    if (text.split(find).length !== 2) throw new Error(`${name}: ${file} does not contain "${find}" once`);
    writeFileSync(
      join(path, file),
      text.replace(find, () => replace),
    );
  }
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}
