import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { settingRows, settingsSchema } from '@sluice/shared';
import Ajv from 'ajv';
import { parse } from 'yaml';
import { root } from './harness.js';

const read = (file: string) => readFileSync(join(root, file), 'utf8');

test('docker-compose.yml fits the Compose Specification', () => {
  // ajv knows the draft that the schema names by another address, and goes by draft 7 anyway.
  const { $schema, ...schema } = JSON.parse(read('node_modules/dclint/schemas/compose.schema.json'));
  const validate = new Ajv.default({ strict: false, validateFormats: false }).compile(schema);
  const compose = parse(read('docker-compose.yml'), { merge: true });
  // Anchors may stand anywhere under x-; the specification has no word on what is in them.
  expect(validate(compose) ? [] : validate.errors).toEqual([]);
  expect(validate({ ...compose, services: { redis: { imagee: 'redis' } } })).toBe(false);
});

test('docker-compose.yml runs what is in the image, with settings that exist', () => {
  const { services } = parse(read('docker-compose.yml'), { merge: true });
  const known = new Set(Object.keys(settingsSchema.shape));
  for (const [name, service] of Object.entries<{ command: string[]; environment?: object }>(services)) {
    for (const variable of Object.keys(service.environment ?? {})) expect(known).toContain(variable);
    if (name === 'redis') continue;
    const [program, main = ''] = service.command;
    expect(program).toBe('node');
    expect(() => read(main)).not.toThrow();
  }
  expect(read('Dockerfile')).toMatch(/^USER node$/m);
});

test("the README's table of settings is that of the schema", () => {
  const rows = settingRows().map(
    (row) =>
      `| \`${row.name}\` | ${row.default === '' ? '' : `\`${row.default}\``} | ${row.unit} | ${row.meaning} |`,
  );
  const [, table] = /<!-- settings -->\n\n([\s\S]+?)\n\n<!-- \/settings -->/.exec(read('README.md')) ?? [];
  expect(table?.split('\n')).toEqual([
    '| variable | default | unit | meaning |',
    '| --- | --- | --- | --- |',
    ...rows,
  ]);
});

test('.env.example is that of the schema', () => {
  const blocks = settingRows().map((row) => {
    // What the machine or the reader decides is left empty.
    const value = row.name in defaults() ? row.default : '';
    return `# ${row.meaning} (${row.unit}${value === '' && row.default !== '' ? `; default: ${row.default}` : ''})\n#${row.name}=${value}`;
  });
  expect(read('.env.example').trim().split('\n\n').slice(1)).toEqual(blocks);
});

/** The variables whose default stands in the schema as it is shown. */
function defaults(): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(settingsSchema.shape)
      .filter(([, schema]) => !(schema.meta() as { shownDefault?: string }).shownDefault)
      .map(([name]) => [name, true]),
  );
}

test('each test that SECURITY.md names is there', () => {
  const { stdout } = spawnSync('git', ['ls-files', '*.test.ts'], { cwd: root, encoding: 'utf8' });
  const files = stdout.split('\n').filter(Boolean);
  const tests = files.map(read).join('\n').replaceAll("\\'", "'");
  const rows = read('SECURITY.md')
    .split('\n')
    .filter((line) => /^\| (?!who |---)/.test(line));
  expect(rows.length).toBeGreaterThan(10);
  for (const row of rows) {
    const name = row.split('|')[4]?.trim() ?? '';
    expect([
      name,
      name !== '' && ["'", '"'].some((quote) => tests.includes(`${quote}${name}${quote}`)),
    ]).toEqual([name, true]);
  }
});

test('nothing in the repository names a registry host or an absolute path of a machine', () => {
  expect(read('package-lock.json')).not.toMatch(/"resolved": "https?:/);
  expect(read('.npmrc')).toMatch(/^omit-lockfile-registry-resolved=true$/m);
});
