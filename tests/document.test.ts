import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { type Body, ClientRig } from './clients/rig.js';
import { post, request, root } from './harness.js';

const TOKEN = 'an-admin-token-for-the-test';
let clients: ClientRig;
let document: Body;
let adminDocument: Body;
/** Of the models that Sluice comes with. */
let defaultDocument: Body;
beforeAll(async () => {
  clients = await ClientRig.start({ ADMIN_TOKEN: TOKEN });
  document = (await request(`${clients.url}/openapi.json`)).body;
  adminDocument = (await request(`${clients.adminUrl}/admin/openapi.json`)).body;
  const { app, url } = await clients.rig.gateway({ MODEL: '' });
  defaultDocument = (await request(`${url}/openapi.json`)).body;
  await app.stop();
}, 300_000);
afterAll(() => clients?.close());

interface Operation {
  path: string;
  method: string;
  operation: Body;
}

const operationsOf = (of: Body): Operation[] =>
  Object.entries<Body>(of.paths).flatMap(([path, methods]) =>
    Object.entries<Body>(methods).map(([method, operation]) => ({ path, method, operation })),
  );

test.each([
  ['public', () => document],
  ['admin', () => adminDocument],
  ['default', () => defaultDocument],
])('the %s reference passes Redocly', (name, of) => {
  const file = join(clients.rig.folder, `${name}.json`);
  writeFileSync(file, JSON.stringify(of()));
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [
      join(root, 'node_modules/@redocly/cli/bin/cli.js'),
      'lint',
      file,
      '--config',
      join(root, 'redocly.yaml'),
    ],
    { encoding: 'utf8', env: { PATH: process.env.PATH, REDOCLY_TELEMETRY: 'off' } },
  );
  expect([status, status === 0 ? '' : `${stdout}\n${stderr}`]).toEqual([0, '']);
});

test('every route, body and error has an example', () => {
  const without: string[] = [];
  for (const { path, method, operation } of [...operationsOf(document), ...operationsOf(adminDocument)]) {
    const contents: [string, Body][] = Object.entries<Body>(operation.responses).flatMap(
      ([status, { content = {} }]) =>
        Object.entries<Body>(content).map(([type, value]) => [`${status} ${type}`, value] as [string, Body]),
    );
    const body = Object.entries<Body>(operation.requestBody?.content ?? {});
    for (const [what, value] of [...contents, ...body])
      if (!value.examples && !value.example) without.push(`${method} ${path} ${what}`);
  }
  // Excluded: NDJSON, whose JSON form has an example, and multipart/form-data.
  expect(without.filter((each) => !/ndjson$|multipart\/form-data$/.test(each))).toEqual([]);
});

/** The names of fields at each depth, of the first entry of a list. */
function shapeOf(value: unknown): unknown {
  if (Array.isArray(value)) return value.length === 0 ? [] : [shapeOf(value[0])];
  if (typeof value !== 'object' || value === null) return value === null ? 'null' : typeof value;
  return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, shapeOf(entry)]));
}

/** The model of the test for a task, in the path of an example. */
const MODELS: Readonly<Record<string, string>> = {
  'text-classification': 'bert-labels',
  'zero-shot-classification': 'roberta-nli',
  'token-classification': 'bert-entities',
  'feature-extraction': 'bert-mean',
  'text-ranking': 'roberta-rank',
};
const OF_OPERATION: Readonly<Record<string, string>> = { predict: 'bert-labels', rerank: 'roberta-rank' };

test('each example request gets an answer with the same fields as its example answer', async () => {
  let sent = 0;
  for (const { path, method, operation } of operationsOf(document)) {
    const bodies = operation.requestBody?.content['application/json']?.examples;
    const [success = ''] = Object.keys(operation.responses);
    const answers = operation.responses[success].content['application/json']?.examples;
    // A file has to be uploaded first.
    if (method !== 'post' || !bodies || path === '/v1/batches') continue;
    for (const [name, { value }] of Object.entries<Body>(bodies)) {
      const last = path.split('/').at(-1) ?? '';
      const model = MODELS[name] ?? OF_OPERATION[last] ?? 'bert-mean';
      const { status, body } = await post(`${clients.url}${path.replace('{id}', model)}`, clients.key, value);
      expect([path, name, status, status < 300 ? '' : body]).toEqual([path, name, Number(success), '']);
      const shown = answers[name].value;
      // The labels of a model, and entities, depend on the model.
      if (name !== 'token-classification' && path !== '/v1/moderations')
        expect([path, name, shapeOf(body)]).toEqual([path, name, shapeOf(shown)]);
      sent++;
    }
  }
  expect(sent).toBeGreaterThan(25);
}, 60_000);
