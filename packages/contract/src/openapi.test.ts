import { expect, test } from '@jest/globals';
import { Validator } from '@seriousme/openapi-schema-validator';
import { familyRoutesFor } from './families.js';
import { openApi } from './openapi.js';
import type { Bounds } from './prediction.js';
import { problemsOf, type Route, statusOf } from './route.js';
import { routesFor } from './routes.js';

const bounds: Bounds = {
  maxTextChars: 10_000,
  requestTimeoutSeconds: 5,
  bulkTimeoutSeconds: 60,
  maxBatchTexts: 100,
  models: [{ name: 'one', task: 'text-classification' }],
};
const routes: Readonly<Record<string, Route>> = { ...routesFor(bounds), ...familyRoutesFor(bounds) };
const pathOf = (path: string) => path.replaceAll(/[:*](\w+)/g, '{$1}');

test('the document is valid OpenAPI 3.1 and has every route', async () => {
  const document = openApi(routes, '1.2.3');
  const { valid, errors } = await new Validator().validate(structuredClone(document));
  expect(errors).toBeUndefined();
  expect(valid).toBe(true);
  expect(document).toMatchObject({ openapi: '3.1.0', info: { version: '1.2.3' } });
  const paths = new Set(Object.values(routes).map(({ path }) => pathOf(path)));
  expect(Object.keys(document.paths as object)).toEqual([...paths]);
});

test('the responses of a route include every error it can have', () => {
  const { paths } = openApi(routes, '1') as { paths: Record<string, Record<string, { responses: object }>> };
  for (const route of Object.values(routes)) {
    const answers = Object.keys(paths[pathOf(route.path)]?.[route.method]?.responses ?? {});
    for (const code of problemsOf(route)) expect(answers).toContain(String(statusOf(route.errors, code)));
  }
});

test('the length of a text is counted in characters, not in UTF-16 units', () => {
  const { body } = routesFor({ ...bounds, maxTextChars: 3 }).predict;
  expect(body.safeParse({ text: '👍👍👍' }).success).toBe(true);
  expect(body.safeParse({ text: '👍👍👍👍' }).success).toBe(false);
});
