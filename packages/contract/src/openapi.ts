import { z } from 'zod';
import { type ProblemCode, problemSchema, problems } from './problem.js';
import { problemsOf, type Route } from './routes.js';

type Json = Record<string, unknown>;

const rateLimitHeaders = {
  'RateLimit-Policy': {
    description: 'The limits, as `"name";q=quota;w=seconds`',
    schema: { type: 'string' },
  },
  RateLimit: { description: 'What is left, as `"name";r=remaining;t=seconds`', schema: { type: 'string' } },
};
const requestIdHeader = {
  'X-Request-Id': { description: "The caller's, or one made here", schema: { type: 'string' } },
};
const retryAfterHeader = { 'Retry-After': { description: 'Whole seconds', schema: { type: 'integer' } } };

const tags = [
  { name: 'Work', description: 'Takes a place in the rate limit' },
  { name: 'Jobs', description: 'Costs nothing; only the key that made a job sees it' },
  { name: 'Keys', description: 'For the operator, with the admin token' },
  { name: 'About', description: 'Costs nothing' },
];

function tagOf({ limited, access }: Route): string {
  if (limited) return 'Work';
  if (access === 'admin') return 'Keys';
  return access === 'batch' ? 'Jobs' : 'About';
}

const STATUS = { 200: 'OK', 201: 'Created', 202: 'Accepted' } as const;

const relocate = (json: unknown): Json =>
  JSON.parse(JSON.stringify(json).replaceAll('#/$defs/', '#/components/schemas/')) as Json;

/** JSON Schema of one zod schema; each part that has an `id` goes to `components` and leaves a reference. */
function jsonSchema(schema: z.ZodType, io: 'input' | 'output', components: Json): Json {
  const { $schema, $defs, ...json } = z.toJSONSchema(schema, {
    io,
    override: ({ jsonSchema: made }) => {
      delete made.id;
      // A later version may add fields, and clients must not break on them.
      delete made.additionalProperties;
    },
  });
  for (const [name, definition] of Object.entries($defs ?? {})) components[name] = relocate(definition);
  return relocate(json);
}

function parametersOf(schema: z.ZodObject | undefined, place: 'path' | 'query'): Json[] {
  if (schema === undefined) return [];
  const { properties = {}, required = [] } = z.toJSONSchema(schema, { io: 'input' });
  return Object.entries(properties).map(([name, property]) => ({
    name,
    in: place,
    required: place === 'path' || required.includes(name),
    schema: property,
  }));
}

function answersWith(codes: readonly ProblemCode[], route: Route): Json {
  const byStatus = new Map<number, ProblemCode[]>();
  for (const code of codes) {
    const { status } = problems[code];
    byStatus.set(status, [...(byStatus.get(status) ?? []), code]);
  }
  return Object.fromEntries(
    [...byStatus]
      .sort(([a], [b]) => a - b)
      .map(([status, group]) => [
        String(status),
        {
          description: group.map((code) => `\`${code}\`: ${problems[code].detail}`).join('\n\n'),
          headers: {
            ...requestIdHeader,
            ...(status === 429 || status === 503 ? retryAfterHeader : {}),
            ...(route.limited && status !== 401 && status !== 403 ? rateLimitHeaders : {}),
            ...(status === 401
              ? { 'WWW-Authenticate': { description: 'How to authenticate', schema: { type: 'string' } } }
              : {}),
          },
          content: { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } },
        },
      ]),
  );
}

/**
 * The OpenAPI 3.1 document of a table of routes.
 * @param routes the table, as {@link Route} rows by operation name
 * @param version of the service
 */
export function openApi(routes: Readonly<Record<string, Route>>, version: string): Json {
  const components: Json = {};
  jsonSchema(problemSchema, 'output', components);
  const paths: Record<string, Json> = {};
  for (const [operationId, route] of Object.entries(routes)) {
    const parameters = [...parametersOf(route.params, 'path'), ...parametersOf(route.query, 'query')];
    const also = route.alsoAnswers ?? [];
    const otherTypes = Object.fromEntries(
      also.flatMap(({ mediaType }) => (mediaType ? [[mediaType, { schema: { type: 'string' } }]] : [])),
    );
    const otherStatuses = Object.fromEntries(
      also.flatMap(({ status, mediaType, description }) =>
        mediaType ? [] : [[status, { description, headers: requestIdHeader }]],
      ),
    );
    const path = route.path.replaceAll(/:(\w+)/g, '{$1}');
    const operation = {
      operationId,
      summary: route.summary,
      tags: [tagOf(route)],
      ...(route.access === 'open' ? { security: [] } : {}),
      ...(route.access === 'admin' ? { security: [{ bearer: [] }] } : {}),
      ...(route.body
        ? {
            requestBody: {
              required: true,
              content: {
                'application/json': { schema: jsonSchema(route.body, 'input', components) },
                ...(route.upload ? { 'application/x-ndjson': { schema: { type: 'string' } } } : {}),
              },
            },
          }
        : {}),
      ...(parameters.length > 0 ? { parameters } : {}),
      responses: {
        [route.success ?? 200]: {
          description: STATUS[route.success ?? 200],
          headers: { ...requestIdHeader, ...(route.limited ? rateLimitHeaders : {}) },
          content: {
            [route.mediaType]: { schema: jsonSchema(route.answer, 'output', components) },
            ...otherTypes,
          },
        },
        ...otherStatuses,
        ...answersWith(problemsOf(route), route),
      },
    };
    paths[path] = { ...paths[path], [route.method]: operation };
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Sluice',
      version,
      description:
        'A model behind an API: keys, exact rate limits, a queue. Errors are `application/problem+json` (RFC 9457).',
      license: { name: 'MIT', identifier: 'MIT' },
    },
    tags: tags.filter(({ name }) => Object.values(routes).some((route) => tagOf(route) === name)),
    security: [{ apiKey: [] }, { bearer: [] }],
    paths,
    components: {
      schemas: components,
      securitySchemes: {
        apiKey: { type: 'apiKey', in: 'header', name: 'X-API-Key' },
        bearer: { type: 'http', scheme: 'bearer' },
      },
    },
  };
}
