import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { type ModelSpec, modelSpecs, readSettings } from '@sluice/shared';
import { taskNamed } from '@sluice/tasks';
import {
  loadMessage,
  ModelProcess,
  modelProcessEntry,
  readCpuFlags,
  sessionOptionsFor,
} from '@sluice/worker';
import { root } from '../harness.js';

// A text has the same output on any x86-64 processor, within 0.005. The emulated process is the shipped one, started with
// qemu-user (Debian: qemu-user). The processor flags are a parameter, because the file with the flags shows those of the
// real processor.

/** How many sentences are compared: all of them, or a sample. */
const SENTENCES = Number(process.env.CPU_SENTENCES || 60);
const MICRO_BATCH = 6;
const MAX_DIFFERENCE = 0.005;
/** An emulated micro-batch takes seconds. */
const BUDGET_MS = 120_000;

const sentences = readFileSync(join(root, 'tests/data/sst2-100.tsv'), 'utf8')
  .split('\n')
  .slice(1, SENTENCES + 1)
  .map((row) => row.split('\t')[0] ?? '');

/** The bundled models. */
const specs = modelSpecs(readSettings({}));

/** The outputs of a model for the sentences. */
async function outputsOf(spec: ModelSpec, emulator: string[], flags: ReadonlySet<string> | undefined) {
  const [program = process.execPath, ...args] = [...emulator, process.execPath, modelProcessEntry];
  if (!('folder' in spec.source)) throw new Error('The bundled models are in folders');
  const task = taskNamed(spec.task);
  const model = new ModelProcess(
    [program, ...args],
    {
      ...loadMessage(spec, spec.source.folder),
      sessionOptions: sessionOptionsFor('x64', flags),
      measure: false,
    },
    BUDGET_MS,
  );
  try {
    const { task: facts } = await model.ready;
    const parameters = task.parameters.parse({});
    const outputs = [];
    for (let i = 0; i < sentences.length; i += MICRO_BATCH) {
      const inputs = sentences.slice(i, i + MICRO_BATCH);
      const rows = inputs.flatMap((input) => task.rows(input, parameters, facts));
      const { results } = await model.run({ rows, parameters: task.runParameters(parameters) }, BUDGET_MS);
      outputs.push(
        ...results.map(({ raw }, j) => task.combine([task.raw.parse(raw)], inputs[j], parameters, facts)),
      );
    }
    return outputs;
  } finally {
    model.kill();
    await model.gone;
  }
}

describe.each(specs.map((spec) => [spec.id, spec] as const))('%s', (_id, spec) => {
  test.concurrent.each([
    // Features that qemu-user does not emulate are disabled, because it would warn at every start of a thread.
    ['Haswell (AVX2)', 'Haswell,-pcid,-x2apic,-tsc-deadline,-hle,-rtm,-invpcid'],
    ['Nehalem (SSE4.2)', 'Nehalem'],
  ])(
    'outputs on %s are those of this processor',
    async (_, cpu) => {
      const [here, there] = await Promise.all([
        outputsOf(spec, [], readCpuFlags()),
        outputsOf(spec, ['qemu-x86_64', '-cpu', cpu], new Set<string>()),
      ]);
      expect(there).toHaveLength(SENTENCES);
      const task = taskNamed(spec.task);
      const differences = there.map((output, i) => task.difference(output, here[i]));
      expect(Math.max(...differences)).toBeLessThanOrEqual(MAX_DIFFERENCE);
    },
    300_000,
  );
});
