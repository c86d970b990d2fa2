import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { modelSpecs, workerSpecs } from './models.js';
import { modelsJsonSchema, readModelsFile } from './modelsFile.js';
import { readSettings, rootFolder } from './settings.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'sluice-models-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function write(text: string): string {
  const file = join(folder, 'models.json');
  writeFileSync(file, text);
  return file;
}
const errorOf = (text: string): string => {
  try {
    readModelsFile(write(text));
  } catch (error) {
    return error instanceof Error ? error.message.replace(/^.*models\.json: /, '') : String(error);
  }
  return 'accepted';
};

const one = (fields: string) =>
  `{\n  "models": [\n    { "id": "a", "task": "text-classification", ${fields} }\n  ]\n}`;

test.each([
  [
    'a typo in a field',
    one('"dtyp": "q8"'),
    /^line 3: "models\.0\.dtyp": unknown field; allowed are id, aliases, task,/,
  ],
  ['an unknown dtype', one('"dtype": "q9"'), /^line 3: "models\.0\.dtype": .*"fp32"\|"fp16"\|"q8"/],
  [
    'an unknown task',
    '{"models": [\n{"id": "a",\n"task": "embedding"}]}',
    /^line 3: "models\.0\.task": .*"feature-extraction"/,
  ],
  ['a field that is missing', '{"models": [\n{"id": "a"}]}', /^line 2: "models\.0\.task"/],
  [
    'a field of another level',
    '{"model": [],\n"models": []}',
    /line 1: "model": unknown field; allowed are models/,
  ],
  [
    'an unknown limit',
    one('"micro_batch":\n{"texts": 3}'),
    /^line 4: "models\.0\.micro_batch\.texts": unknown field; allowed are rows, tokens/,
  ],
  ['no model', '{"models": []}', /^line 1: "models": It must list at least one model/],
  [
    'two models with one id',
    '{"models": [\n{"id": "a", "task": "text-ranking"},\n{"id": "a", "task": "text-ranking"}]}',
    /^line 3: "models\.1\.id": "a" is used twice/,
  ],
  [
    'an alias that is an id',
    '{"models": [\n{"id": "a", "task": "text-ranking"},\n{"id": "b", "aliases": [\n"a"], "task": "text-ranking"}]}',
    /^line 4: "models\.1\.aliases\.0": "a" is used twice/,
  ],
  [
    'pooling for another task',
    one('"pooling": "mean"'),
    /^line 3: "models\.0\.pooling": only for the task feature-extraction/,
  ],
  ['a number out of range', one('"processes": 0'), /^line 3: "models\.0\.processes": .*>=1/],
  ['no JSON', '{"models": [\n{"id": "a" "task"}]}', /^line 2: not valid JSON: (CommaExpected|ColonExpected)/],
  ['an empty file', '', /^line 1: not valid JSON/],
  [
    'a field that is there twice',
    one('"dtype": "q8",\n"dtype": "fp32"'),
    /^line 4: "dtype" is present twice/,
  ],
  ['another value', '[]', /^line 1: ".*": .*object/],
])('%s is refused with line, field and what is allowed', (_name, text, reason) => {
  expect(errorOf(text)).toMatch(reason);
});

test('comments, a byte order mark and a comma at the end are accepted', () => {
  expect(errorOf(`\uFEFF// The models\n${one('"dtype": "q8", /* int8 */')}`)).toBe('accepted');
});

test('models.schema.json is generated from the schema, and accepts what the schema accepts', () => {
  const shipped = JSON.parse(readFileSync(join(rootFolder, 'models.schema.json'), 'utf8'));
  // Run node scripts/modelsSchema.mjs after a change.
  expect(shipped).toEqual(JSON.parse(JSON.stringify(modelsJsonSchema())));
  const validate = new Ajv2020().compile(shipped);
  expect(validate(JSON.parse(readFileSync(join(rootFolder, 'models.json'), 'utf8')))).toBe(true);
  expect(validate(JSON.parse(one('"dtyp": "q8"')))).toBe(false);
});

const specsOf = (env: Record<string, string>) => modelSpecs(readSettings(env));

test('settings make one entry, or name a file; both at once are refused', () => {
  const file = write(one('"dtype": "fp32"'));
  expect(specsOf({ MODELS_FILE: file })).toMatchObject([{ id: 'a', dtype: 'fp32' }]);
  expect(specsOf({ MODEL: 'owner/name', MODEL_REVISION: 'v1' })).toMatchObject([
    { id: 'owner/name', dtype: 'q8', source: { repository: 'owner/name', revision: 'v1' } },
  ]);
  expect(specsOf({}).length).toBeGreaterThan(1);
  expect(() => specsOf({ MODELS_FILE: file, MODEL: 'a' })).toThrow(/MODEL, MODELS_FILE: set only one/);
  expect(() => specsOf({ MODELS_FILE: file, MODEL_DTYPE: 'q8' })).toThrow(/they apply only with MODEL/);
  expect(() => specsOf({ MODELS_FILE: join(folder, 'none.json') })).toThrow(
    /none\.json: there is no such file/,
  );
  expect(() => workerSpecs(readSettings({ MODELS_FILE: file, WORKER_MODELS: 'a,b' }))).toThrow(
    'WORKER_MODELS: "b" is not configured; there are: a',
  );
});

test('the hash of a spec changes with what outputs depend on, and with nothing else', () => {
  const hash = (fields: string, env = {}) => specsOf({ MODELS_FILE: write(one(fields)), ...env })[0].hash;
  const same = hash('"processes": 1');
  expect(hash('"processes": 2, "aliases": ["x"], "timeout_seconds": 9')).toBe(same);
  expect(hash('"processes": 1', { STALL_SECONDS: '3' })).toBe(same);
  const others = ['"dtype": "fp32"', '"revision": "v1"', '"source": "elsewhere"', '"max_tokens": 16'].map(
    (fields) => hash(fields),
  );
  expect(new Set([same, ...others]).size).toBe(5);
});
