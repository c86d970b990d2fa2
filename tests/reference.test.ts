import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import * as z from 'zod';
import { post, Rig, root } from './harness.js';

// Compares outputs with those of Python's transformers and sentence-transformers, which tests/reference/make.py has
// recorded with the same models in float32.

/** How many of the 1,000 recorded texts are compared. */
const TEXTS = Number(process.env.REFERENCE_TEXTS || 100);
/** Scores may differ by this much. */
const MAX_SCORE_DIFFERENCE = 1e-4;
const MIN_COSINE = 0.9999;
/** Inputs of a request: some go by the interactive lane, and with several rows each by the bulk lane. */
const INPUTS_PER_REQUEST = 100;

const folder = join(root, 'tests/reference');
const texts = z.array(z.string()).parse(JSON.parse(readFileSync(join(folder, 'texts.json'), 'utf8')));

const scores = z.array(z.tuple([z.union([z.string(), z.number()]), z.number()]));
const entities = z.array(z.tuple([z.string(), z.number(), z.number(), z.number(), z.string()]));
const vector = z.string().transform((base64) => {
  const bytes = Buffer.from(base64, 'base64');
  return Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i));
});
const caseSchema = z.object({
  parameters: z.record(z.string(), z.unknown()),
  inputs: z.union([
    z.enum(['texts', 'pairs']),
    z.array(z.number()),
    z.array(z.tuple([z.number(), z.array(z.number())])),
  ]),
  outputs: z.array(z.unknown()),
});
const recordingSchema = z.object({ model: z.string(), task: z.string(), cases: z.array(caseSchema) });
const recordings = readdirSync(folder)
  .filter((file) => file.endsWith('.json') && file !== 'texts.json')
  .map((file) => recordingSchema.parse(JSON.parse(readFileSync(join(folder, file), 'utf8'))));

let rig: Rig;
let url: string;
let key: string;
beforeAll(async () => {
  rig = await Rig.start();
  const env = rig.models(
    recordings.map(({ model, task }) => ({
      id: model,
      task,
      source: join(folder, 'models', model),
      dtype: 'fp32',
      processes: 1,
      timeout_seconds: 60,
    })),
  );
  [{ url }, key] = await Promise.all([rig.gateway(env), rig.key(), rig.worker(env)]);
}, 120_000);
afterAll(() => rig.close());

/** The recorded inputs and outputs of a case, as many as are compared. */
function pairsOf({ inputs, outputs }: z.infer<typeof caseSchema>): { input: unknown; expected: unknown }[] {
  const text = (i: number) => texts[i] ?? '';
  // As make.py pairs them.
  const pairs = texts.flatMap((first, i) =>
    i % 5 === 0 ? [{ text: first, text_pair: text((i * 7 + 3) % texts.length) }] : [],
  );
  const all: unknown[] =
    inputs === 'texts'
      ? texts
      : inputs === 'pairs'
        ? pairs
        : inputs.map((each) =>
            typeof each === 'number' ? text(each) : { query: text(each[0]), texts: each[1].map(text) },
          );
  expect(all).toHaveLength(outputs.length);
  return all.slice(0, TEXTS).map((input, i) => ({ input, expected: outputs[i] }));
}

async function outputsOf(model: string, parameters: object, inputs: readonly unknown[]): Promise<unknown[]> {
  const outputs: unknown[] = [];
  for (let i = 0; i < inputs.length; i += INPUTS_PER_REQUEST) {
    const { status, body } = await post(`${url}/models/${model}`, key, {
      inputs: inputs.slice(i, i + INPUTS_PER_REQUEST),
      parameters,
    });
    if (status !== 200) throw new Error(`${status} ${JSON.stringify(body)}`);
    outputs.push(...body);
  }
  return outputs;
}

/** Compares an output with the recorded one. Returns how far its scores differ. */
const compare: Readonly<Record<string, (output: unknown, expected: unknown) => number>> = {
  'text-classification': compareScores,
  'zero-shot-classification': compareScores,
  'text-ranking': compareScores,
  'token-classification'(output, expected) {
    const found = z
      .array(
        z.object({
          entity_group: z.string().optional(),
          entity: z.string().optional(),
          start: z.number(),
          end: z.number(),
          score: z.number(),
          word: z.string(),
        }),
      )
      .parse(output);
    const recorded = entities.parse(expected);
    const name = (e: (typeof found)[number]) => [e.entity_group ?? e.entity, e.start, e.end, e.word];
    expect(found.map(name)).toEqual(recorded.map(([group, start, end, , word]) => [group, start, end, word]));
    return Math.max(0, ...found.map(({ score }, i) => Math.abs(score - (recorded[i]?.[3] ?? Number.NaN))));
  },
  'feature-extraction'(output, expected) {
    const found = z.array(z.number()).parse(output);
    const recorded = vector.parse(expected);
    expect(found).toHaveLength(recorded.length);
    const dot = (one: number[], other: number[]) => one.reduce((sum, x, i) => sum + x * (other[i] ?? 0), 0);
    const cosine = dot(found, recorded) / Math.sqrt(dot(found, found) * dot(recorded, recorded));
    expect(cosine).toBeGreaterThanOrEqual(MIN_COSINE);
    // Also the length of a vector that is not normalized.
    return Math.max(...found.map((x, i) => Math.abs(x - (recorded[i] ?? Number.NaN))));
  },
};

/** Compares labels or ranks with their scores; ones with equal scores may have another order. */
function compareScores(output: unknown, expected: unknown): number {
  const recorded = scores.parse(expected);
  const found = z
    .array(z.object({ label: z.string().optional(), index: z.number().optional(), score: z.number() }))
    .parse(output)
    .map(({ label, index, score }) => [label ?? index ?? '', score] as const);
  const scoreOf = new Map(found);
  expect([...scoreOf.keys()].sort()).toEqual(recorded.map(([name]) => name).sort());
  const differences = recorded.map(([name, score], i) => {
    // The same rank has the same score, whichever of two equal ones it is.
    expect(Math.abs((found[i]?.[1] ?? Number.NaN) - score)).toBeLessThanOrEqual(MAX_SCORE_DIFFERENCE);
    return Math.abs((scoreOf.get(name) ?? Number.NaN) - score);
  });
  return Math.max(...differences);
}

describe.each(recordings.map((recording) => [recording.model, recording.task, recording] as const))(
  '%s (%s) equals Python',
  (model, task, { cases }) => {
    test.each(cases.map((each) => [JSON.stringify(each.parameters), each] as const))(
      '%s',
      async (_, each) => {
        const pairs = pairsOf(each);
        const outputs = await outputsOf(
          model,
          each.parameters,
          pairs.map(({ input }) => input),
        );
        const differences = pairs.map(
          ({ expected }, i) => compare[task]?.(outputs[i], expected) ?? Number.NaN,
        );
        const largest = Math.max(...differences);
        if (process.env.REFERENCE_REPORT)
          process.stdout.write(
            `| ${task} | ${model} | ${JSON.stringify(each.parameters)} | ${pairs.length} | ${largest} |\n`,
          );
        expect(largest).toBeLessThanOrEqual(MAX_SCORE_DIFFERENCE);
      },
      120_000,
    );
  },
);
