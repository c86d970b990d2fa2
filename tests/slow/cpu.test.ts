import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { readSettings } from '@sluice/shared';
import {
  loadMessage,
  ModelProcess,
  modelProcessEntry,
  readCpuFlags,
  sessionOptionsFor,
} from '@sluice/worker';
import { root } from '../harness.js';

// A text has the same score on any x86-64 processor, within 0.005. The emulated process is the shipped one, started
// under qemu-user (Debian: qemu-user); what it is told of the processor is a parameter, for its own flags file shows
// the real one.

const SENTENCES = 60;
const MICRO_BATCH = 6;
const MAX_MOVE = 0.005;
/** Emulated, a micro-batch takes seconds. */
const BUDGET_MS = 120_000;

const sentences = readFileSync(join(root, 'tests/data/sst2-100.tsv'), 'utf8')
  .split('\n')
  .slice(1, SENTENCES + 1)
  .map((row) => row.split('\t')[0] ?? '');

async function score(emulator: string[], flags: ReadonlySet<string> | undefined) {
  const [program = process.execPath, ...args] = [...emulator, process.execPath, modelProcessEntry];
  const model = new ModelProcess(
    [program, ...args],
    {
      ...loadMessage(readSettings({})),
      sessionOptions: sessionOptionsFor('x64', flags),
      introduce: false,
    },
    BUDGET_MS,
  );
  try {
    await model.ready;
    const results = [];
    for (let i = 0; i < sentences.length; i += MICRO_BATCH) {
      results.push(...(await model.run(sentences.slice(i, i + MICRO_BATCH), 2, BUDGET_MS)));
    }
    return results.map(({ labels }) => ({
      top: labels[0]?.label,
      positive: labels.find(({ label }) => label === 'POSITIVE')?.score ?? Number.NaN,
    }));
  } finally {
    model.kill();
    await model.gone;
  }
}

test.concurrent.each([
  // What qemu-user does not emulate is switched off by name: it warns at every start of a thread otherwise.
  ['Haswell (AVX2)', 'Haswell,-pcid,-x2apic,-tsc-deadline,-hle,-rtm,-invpcid'],
  ['Nehalem (SSE4.2)', 'Nehalem'],
])(
  'scores on %s are those of this processor',
  async (_, cpu) => {
    const [here, there] = await Promise.all([
      score([], readCpuFlags()),
      score(['qemu-x86_64', '-cpu', cpu], new Set<string>()),
    ]);
    expect(there).toHaveLength(SENTENCES);
    expect(there.map(({ top }) => top)).toEqual(here.map(({ top }) => top));
    const moves = there.map(({ positive }, i) => Math.abs(positive - (here[i]?.positive ?? Number.NaN)));
    expect(Math.max(...moves)).toBeLessThanOrEqual(MAX_MOVE);
  },
  300_000,
);
