import * as z from 'zod';
import type { Example } from './examples.js';
import { type ErrorFacts, type ProblemCode, problemSchema, problems } from './problem.js';
import { problemsOf, type Route, statusOf } from './route.js';

type Json = Record<string, unknown>;

const rateLimitHeaders = {
  'RateLimit-Policy': {
    description: 'The limits, as `"name";q=quota;w=seconds`',
    schema: { type: 'string' },
  },
  RateLimit: { description: 'What remains, as `"name";r=remaining;t=seconds`', schema: { type: 'string' } },
};
const requestIdHeader = {
  'X-Request-Id': { description: "The caller's id, or a generated one", schema: { type: 'string' } },
};
const truncatedHeader = {
  'X-Truncated-Inputs': {
    description: "How many inputs were cut to the model's maximum number of tokens; absent if none",
    schema: { type: 'integer' },
  },
};
const retryAfterHeader = { 'Retry-After': { description: 'Whole seconds', schema: { type: 'integer' } } };

const tags = [
  {
    name: 'Work',
    description: 'Each request uses one slot of the rate limit, unless it ends in 401, 403, 429 or 503',
  },
  { name: 'Jobs', description: 'These requests use no slot. Only the key that created a job can see it' },
  { name: 'Keys', description: 'For operators, with the admin token' },
  { name: 'About', description: 'These requests use no slot' },
  {
    name: 'Hugging Face Inference',
    description: 'For clients of the Hugging Face Inference API, with the base URL `/models/<id>`',
  },
  {
    name: 'text-embeddings-inference',
    description:
      'For clients of text-embeddings-inference, with the base URL `/` for the first model of a task, or `/models/<id>`',
  },
  { name: 'OpenAI', description: 'For clients of the OpenAI API, with the base URL `/v1`' },
  {
    name: 'Rerank (Cohere, Jina, Infinity)',
    description: 'For clients of the rerank APIs of Cohere, Jina and Infinity',
  },
];

function tagOf({ tag, limited, access }: Route): string {
  if (tag !== undefined) return tag;
  if (limited) return 'Work';
  if (access === 'admin') return 'Keys';
  return access === 'batch' ? 'Jobs' : 'About';
}

const STATUS = { 200: 'OK', 201: 'Created', 202: 'Accepted' } as const;

const relocate = (json: unknown): Json =>
  JSON.parse(JSON.stringify(json).replaceAll('#/$defs/', '#/components/schemas/')) as Json;

/** JSON Schema of a zod schema. Each part with an `id` moves to `components` and is replaced by a reference. */
function jsonSchema(schema: z.ZodType, io: 'input' | 'output', components: Json): Json {
  const { $schema, $defs, ...json } = z.toJSONSchema(schema, {
    io,
    override: ({ jsonSchema: generated }) => {
      delete generated.id;
      // A later version may add fields, and clients must not break on them. What a request may not have stays.
      if (io === 'output' || generated.additionalProperties !== false) delete generated.additionalProperties;
    },
  });
  for (const [name, definition] of Object.entries($defs ?? {})) components[name] = relocate(definition);
  return relocate(json);
}

/** The rest of a path is a list to the router, and one text to a client. */
function pathSchema(property: unknown): unknown {
  const { type, enum: names } = objectOf(property);
  return type === 'array' ? { type: 'string', ...(names ? { enum: names } : {}) } : property;
}

function parametersOf(schema: z.ZodObject | undefined, location: 'path' | 'query' | 'header'): Json[] {
  if (schema === undefined) return [];
  const { properties = {}, required = [] } = z.toJSONSchema(schema, { io: 'input' });
  return Object.entries(properties).map(([name, property]) => ({
    name,
    in: location,
    required: location === 'path' || required.includes(name),
    schema: location === 'path' ? pathSchema(property) : property,
  }));
}

/** What the body of an error is made from. */
const factsOf = (code: ProblemCode): ErrorFacts => ({
  code,
  detail: problems[code].detail,
  ...(code === 'validation_failed' ? { errors: [{ pointer: '/inputs', detail: 'The list is empty' }] } : {}),
});

/** A response with an error, as a client gets it. */
function exampleOf(code: ProblemCode): Json {
  const { status, title, detail } = problems[code];
  return {
    type: `/errors/${code}`,
    title,
    status,
    detail,
    code,
    request_id: 'b2f1c0de-0000-4000-8000-000000000000',
    ...(code === 'validation_failed' ? { errors: [{ pointer: '/text', detail: 'The text is empty' }] } : {}),
  };
}

function problemResponses(codes: readonly ProblemCode[], route: Route, components: Json): Json {
  const byStatus = new Map<number, ProblemCode[]>();
  for (const code of codes) {
    const status = statusOf(route.errors, code);
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
          content: route.errors
            ? {
                'application/json': {
                  schema: jsonSchema(route.errors.schema, 'output', components),
                  examples: Object.fromEntries(
                    group.map((code) => [code, { value: route.errors?.body(factsOf(code)) }]),
                  ),
                },
              }
            : problemContent(group, status),
        },
      ]),
  );
}

/** Examples of a content, by their names. */
function examplesOf(given: readonly Example[], what: 'body' | 'answer'): Json {
  const named = given.filter((example) => what in example);
  if (named.length === 0) return {};
  return { examples: Object.fromEntries(named.map((example) => [example.name, { value: example[what] }])) };
}

const FIRST_ERROR_STATUS = 400;
/** Content of the problems with a status; none if no problem has it. */
function problemContent(codes: readonly ProblemCode[], status: number): Json {
  const group = codes.filter((code) => problems[code].status === status);
  if (group.length === 0) return {};
  return {
    'application/problem+json': {
      schema: { $ref: '#/components/schemas/Problem' },
      examples: Object.fromEntries(group.map((code) => [code, { value: exampleOf(code) }])),
    },
  };
}

/** Either of two values of a document. */
function either(one: unknown, other: unknown): unknown {
  if (one === undefined || other === undefined) return one ?? other;
  return JSON.stringify(one) === JSON.stringify(other) ? one : { anyOf: [one, other] };
}

/** Each entry of two objects; those that both have are joined. */
function joinedEntries(one: Json, other: Json, join: (a: unknown, b: unknown) => unknown): Json {
  const names = new Set([...Object.keys(one), ...Object.keys(other)]);
  return Object.fromEntries(
    [...names].map((name) => [
      name,
      name in one && name in other ? join(one[name], other[name]) : (one[name] ?? other[name]),
    ]),
  );
}

const objectOf = (value: unknown): Json => (typeof value === 'object' && value !== null ? { ...value } : {});

/** Contents by media type, each with either schema. */
const joinedContent = (one: unknown, other: unknown) =>
  joinedEntries(objectOf(one), objectOf(other), (a, b) => ({
    ...objectOf(a),
    ...objectOf(b),
    schema: either(objectOf(a).schema, objectOf(b).schema),
    ...(objectOf(a).examples || objectOf(b).examples
      ? { examples: { ...objectOf(objectOf(a).examples), ...objectOf(objectOf(b).examples) } }
      : {}),
  }));

/**
 * The document of two operations of different families with the same path and method.
 * @param codes of the errors that either may have before the family is known
 */
function joined(one: Json, other: Json, codes: readonly ProblemCode[]): Json {
  const { requestBody, responses } = other;
  return {
    ...one,
    summary: `${one.summary}. Or: ${other.summary}`,
    tags: [one.tags, other.tags].flat(),
    requestBody: {
      ...objectOf(one.requestBody),
      content: joinedContent(objectOf(one.requestBody).content, objectOf(requestBody).content),
    },
    responses: Object.fromEntries(
      Object.entries(
        joinedEntries(objectOf(one.responses), objectOf(responses), (a, b) => ({
          ...objectOf(a),
          description: [...new Set([objectOf(a).description, objectOf(b).description])].join('\n\n'),
          content: joinedContent(objectOf(a).content, objectOf(b).content),
        })),
      ).map(([status, response]) => [
        status,
        // What is refused before the family is known is a problem.
        Number(status) < FIRST_ERROR_STATUS
          ? response
          : {
              ...objectOf(response),
              content: { ...problemContent(codes, Number(status)), ...objectOf(objectOf(response).content) },
            },
      ]),
    ),
  };
}

/**
 * The OpenAPI 3.1 document of a table of routes.
 * @param routes the table, {@link Route} entries by operation name
 * @param version of the service
 * @param examples of the routes, by operation name
 */
export function openApi(
  routes: Readonly<Record<string, Route>>,
  version: string,
  examples: Readonly<Record<string, readonly Example[]>> = {},
): Json {
  const components: Json = {};
  jsonSchema(problemSchema, 'output', components);
  const paths: Record<string, Json> = {};
  for (const [operationId, route] of Object.entries(routes)) {
    const parameters = [
      ...parametersOf(route.params, 'path'),
      ...parametersOf(route.query, 'query'),
      ...parametersOf(route.headers, 'header'),
    ];
    const given = examples[operationId] ?? [];
    const also = route.alsoAnswers ?? [];
    const otherTypes = Object.fromEntries(
      also.flatMap(({ mediaType }) => (mediaType ? [[mediaType, { schema: { type: 'string' } }]] : [])),
    );
    const otherStatuses = Object.fromEntries(
      also.flatMap(({ status, mediaType, description }) =>
        mediaType ? [] : [[status, { description, headers: requestIdHeader }]],
      ),
    );
    const path = route.path.replaceAll(/[:*](\w+)/g, '{$1}');
    const operation = {
      operationId,
      summary: route.summary,
      tags: [tagOf(route)],
      ...(route.access === 'open' ? { security: [] } : {}),
      ...(route.access === 'admin' ? { security: [{ bearer: [] }] } : {}),
      ...(route.body
        ? {
            requestBody: {
              required: !route.bodyOptional,
              content: {
                [route.bodyType ?? 'application/json']: {
                  schema: jsonSchema(route.body, 'input', components),
                  ...examplesOf(given, 'body'),
                },
                ...(route.line
                  ? {
                      'application/x-ndjson': {
                        schema: {
                          type: 'string',
                          description:
                            'One JSON value per line: a text, or an object with a text and your id of it',
                          contentMediaType: 'application/json',
                          contentSchema: jsonSchema(route.line, 'input', components),
                        },
                        example: '"I love it"\n{"id": "yours", "text": "I do not"}\n',
                      },
                    }
                  : {}),
              },
            },
          }
        : {}),
      ...(parameters.length > 0 ? { parameters } : {}),
      responses: {
        [route.success ?? 200]: {
          description: STATUS[route.success ?? 200],
          headers: {
            ...requestIdHeader,
            ...(route.limited ? rateLimitHeaders : {}),
            ...(route.largeBody ? truncatedHeader : {}),
          },
          content: {
            [route.mediaType]: {
              schema: jsonSchema(route.answer, 'output', components),
              ...examplesOf(given, 'answer'),
            },
            ...otherTypes,
          },
        },
        ...otherStatuses,
        ...problemResponses(problemsOf(route), route, components),
      },
    };
    const known = paths[path]?.[route.method];
    paths[path] = {
      ...paths[path],
      [route.method]: known ? joined(objectOf(known), operation, problemsOf(route)) : operation,
    };
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Sluice',
      version,
      description:
        'Self-hosted API and batch queue for transformers.js models. Errors are `application/problem+json` (RFC 9457).',
      license: { name: 'MIT', identifier: 'MIT' },
    },
    tags: tags.filter(({ name }) => Object.values(routes).some((route) => tagOf(route) === name)),
    servers: [{ url: '/', description: 'This server' }],
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
