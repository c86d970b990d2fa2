import { type AddressInfo, createConnection } from 'node:net';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type ProblemCode, problemSchema, problems } from '@sluice/contract';
import { Keyring } from '@sluice/shared';
import { problemJson } from '../apps/gateway/src/api/native/problemJson.js';
import { problemOf } from '../apps/gateway/src/http/app.js';
import { createHttpServer } from '../apps/gateway/src/http/server.js';
import { type Answer, faultyWorkerMain, post, Rig, request, silentLog } from './harness.js';

let rig: Rig;
let url: string;
/** API keys by their condition. */
const keys: Record<string, string> = {};

beforeAll(async () => {
  rig = await Rig.start();
  const [gateway] = await Promise.all([
    rig.gateway({ MAX_BODY_BYTES: '4096', MAX_TEXT_CHARS: '1000', AUTH_FAILURES_PER_MINUTE: '1000' }),
    rig.worker({ MODEL_PROCESSES: '1' }, faultyWorkerMain),
  ]);
  url = gateway.url;
  keys.good = await rig.key();
  keys.used = await rig.key({ limits: [{ limit: 1, windowSeconds: 60 }] });
  keys.batchOnly = await rig.key({ scopes: ['batch'] });
  keys.expired = await rig.key({ expiresAtMs: Date.now() - 1_000 });
  keys.revoked = await rig.key();
  await new Keyring(rig.redis).revoke(keys.revoked.split('_')[1] ?? '', Date.now());
  expect((await post(`${url}/predict`, keys.used, { text: 'fine' })).status).toBe(200);
});
afterAll(() => rig.close());

function expectProblem(answer: Answer, status: number, code: ProblemCode) {
  expect([answer.status, answer.body.code]).toEqual([status, code]);
  expect(answer.headers.get('content-type')).toBe('application/problem+json');
  const problem = problemSchema.parse(answer.body);
  expect(problem.status).toBe(status);
  expect(problem.type).toBe(`/errors/${code}`);
  expect(problem.title).toBe(problems[code].title);
  expect(problem.request_id).toBe(answer.headers.get('x-request-id'));
  expect(JSON.stringify(answer.body)).not.toMatch(/node_modules|at \w+ \(|\/src\/|sk_/);
}

const json = { 'Content-Type': 'application/json' };
const text = (value: string) => JSON.stringify({ text: value });

interface Row {
  name: string;
  /** A name in `keys`; without it no key is sent. */
  key?: string;
  method?: string;
  path?: string;
  headers?: Record<string, string>;
  body?: string | Buffer;
  status: number;
  code: ProblemCode;
  detail?: string;
  /** Header fields of the response. */
  answers?: Record<string, string | RegExp>;
  pointers?: string[];
}

const rows: Row[] = [
  {
    name: 'no key',
    body: text('fine'),
    status: 401,
    code: 'not_authenticated',
    detail: 'Not authenticated',
    answers: { 'www-authenticate': /^Bearer/ },
  },
  {
    name: 'two keys that differ',
    key: 'good',
    headers: { Authorization: 'Bearer other' },
    body: text('fine'),
    status: 401,
    code: 'conflicting_keys',
    answers: { 'www-authenticate': /^Bearer/ },
  },
  {
    name: 'an unknown key',
    headers: { 'X-API-Key': 'wrong-key' },
    body: text('fine'),
    status: 403,
    code: 'invalid_api_key',
    detail: 'Invalid API key',
  },
  { name: 'a revoked key', key: 'revoked', body: text('fine'), status: 403, code: 'invalid_api_key' },
  { name: 'an expired key', key: 'expired', body: text('fine'), status: 403, code: 'invalid_api_key' },
  {
    name: 'a very long key',
    headers: { 'X-API-Key': 'k'.repeat(5_000) },
    body: text('fine'),
    status: 403,
    code: 'invalid_api_key',
  },
  {
    name: 'a key without the scope',
    key: 'batchOnly',
    body: text('fine'),
    status: 403,
    code: 'missing_scope',
    detail: 'This API key lacks the scope "predict"',
  },
  { name: 'no such route', method: 'GET', path: '/nowhere', status: 404, code: 'not_found' },
  {
    name: 'the wrong method, without a key',
    method: 'GET',
    path: '/predict',
    status: 405,
    code: 'method_not_allowed',
    answers: { allow: 'POST, OPTIONS' },
  },
  {
    name: 'another wrong method',
    method: 'DELETE',
    path: '/me',
    status: 405,
    code: 'method_not_allowed',
    answers: { allow: 'GET, HEAD, OPTIONS' },
  },
  {
    name: 'the limit reached',
    key: 'used',
    body: text('fine'),
    status: 429,
    code: 'rate_limited',
    detail: 'Rate limit exceeded. Please try again later.',
    answers: {
      'retry-after': /^[1-6]?\d$/,
      'ratelimit-policy': '"default";q=1;w=60',
      ratelimit: /^"default";r=0;t=\d+$/,
    },
  },
  {
    name: 'the limit reached, before the body is read',
    key: 'used',
    body: '{',
    status: 429,
    code: 'rate_limited',
  },
  { name: 'not JSON', key: 'good', body: '{"text": ', status: 400, code: 'invalid_json' },
  { name: 'no body', key: 'good', body: '', status: 400, code: 'invalid_json' },
  {
    name: 'not UTF-8',
    key: 'good',
    body: Buffer.from([0x22, 0xff, 0xfe, 0x22]),
    status: 400,
    code: 'invalid_encoding',
  },
  {
    name: 'a body that is not gzip',
    key: 'good',
    headers: { 'Content-Encoding': 'gzip' },
    body: 'not gzip',
    status: 400,
    code: 'invalid_encoding',
    detail: 'The body cannot be decompressed',
  },
  {
    name: 'an incomplete gzip body',
    key: 'good',
    headers: { 'Content-Encoding': 'gzip' },
    body: gzipSync(text('fine')).subarray(0, 20),
    status: 400,
    code: 'invalid_encoding',
  },
  {
    name: 'a path that does not decode',
    method: 'GET',
    path: '/docs/assets/%E0%A4%A',
    status: 404,
    code: 'not_found',
  },
  {
    name: 'a body that is too large',
    key: 'good',
    body: text('x'.repeat(5_000)),
    status: 413,
    code: 'body_too_large',
  },
  {
    name: 'a body that is too large after decompression',
    key: 'good',
    headers: { 'Content-Encoding': 'gzip' },
    body: gzipSync(text('x'.repeat(1_000_000))),
    status: 413,
    code: 'body_too_large',
  },
  {
    name: 'another content type',
    key: 'good',
    headers: { 'Content-Type': 'text/plain' },
    body: text('fine'),
    status: 415,
    code: 'unsupported_media_type',
  },
  {
    name: 'another charset',
    key: 'good',
    headers: { 'Content-Type': 'application/json; charset=latin1' },
    body: text('fine'),
    status: 415,
    code: 'unsupported_media_type',
  },
  {
    name: 'another encoding',
    key: 'good',
    headers: { 'Content-Encoding': 'compress' },
    body: text('fine'),
    status: 415,
    code: 'unsupported_media_type',
  },
  {
    name: 'not an object',
    key: 'good',
    body: '["fine"]',
    status: 422,
    code: 'validation_failed',
    pointers: [''],
  },
  { name: 'no text', key: 'good', body: '{}', status: 422, code: 'validation_failed', pointers: ['/text'] },
  {
    name: 'several invalid values',
    key: 'good',
    body: '{"text": 1, "model": "", "timeout_seconds": 0.01}',
    status: 422,
    code: 'validation_failed',
    pointers: ['/text', '/model', '/timeout_seconds'],
  },
  {
    name: 'an empty text',
    key: 'good',
    body: text(''),
    status: 422,
    code: 'validation_failed',
    pointers: ['/text'],
  },
  {
    name: 'a text of white space',
    key: 'good',
    body: text(' \n\t '),
    status: 422,
    code: 'validation_failed',
    pointers: ['/text'],
  },
  {
    name: 'a text that is too long',
    key: 'good',
    body: text('é'.repeat(1_001)),
    status: 422,
    code: 'validation_failed',
    pointers: ['/text'],
  },
  {
    name: 'half a surrogate pair',
    key: 'good',
    body: '{"text": "fine \\ud83d"}',
    status: 422,
    code: 'validation_failed',
    pointers: ['/text'],
  },
  {
    name: 'a deadline that is too long',
    key: 'good',
    body: '{"text": "fine", "timeout_seconds": 60}',
    status: 422,
    code: 'validation_failed',
    pointers: ['/timeout_seconds'],
  },
  {
    name: 'a model that is not configured',
    key: 'good',
    body: '{"text": "fine", "model": "gpt"}',
    status: 422,
    code: 'validation_failed',
    pointers: ['/model'],
  },
  {
    name: 'top_k of 0',
    key: 'good',
    path: '/analyze',
    body: '{"text": "fine", "top_k": 0}',
    status: 422,
    code: 'validation_failed',
    pointers: ['/top_k'],
  },
  {
    name: 'a deadline that passes',
    key: 'good',
    path: '/analyze_comment',
    body: '{"text": "«slow:900»", "timeout_seconds": 0.2}',
    status: 408,
    code: 'analysis_timed_out',
    detail: 'Analysis timed out',
  },
  {
    name: 'a text that the model fails on',
    key: 'good',
    path: '/analyze_comment',
    body: text('«refuse»'),
    status: 500,
    code: 'analysis_failed',
    detail: 'Analysis failed',
  },
];

describe('each error has its response', () => {
  test.each(rows)('$status $code: $name', async (row) => {
    const key = row.key === undefined ? undefined : keys[row.key];
    const answer = await request(`${url}${row.path ?? '/predict'}`, {
      method: row.method ?? 'POST',
      headers: {
        ...(row.body === undefined ? {} : json),
        ...(key ? { 'X-API-Key': key } : {}),
        ...row.headers,
      },
      ...(row.body === undefined ? {} : { body: row.body }),
    });
    expectProblem(answer, row.status, row.code);
    if (row.detail) expect(answer.body.detail).toBe(row.detail);
    for (const [name, value] of Object.entries(row.answers ?? {})) {
      expect(answer.headers.get(name)).toEqual(
        typeof value === 'string' ? value : expect.stringMatching(value),
      );
    }
    expect(answer.body.errors?.map(({ pointer }: { pointer: string }) => pointer)).toEqual(row.pointers);
  });
});

test("the caller's request id is returned if it is safe", async () => {
  const safe = await request(`${url}/nowhere`, { headers: { 'X-Request-Id': 'trace-1:2.3' } });
  expect([safe.headers.get('x-request-id'), safe.body.request_id]).toEqual(['trace-1:2.3', 'trace-1:2.3']);
  const unsafe = await request(`${url}/nowhere`, { headers: { 'X-Request-Id': 'a b"<c>' } });
  expect(unsafe.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
});

/** Sends raw bytes; resolves to the whole response. */
function raw(bytes: string, port = Number(new URL(url).port)): Promise<string> {
  return new Promise((resolve, reject) => {
    let answer = '';
    const socket = createConnection({ port, host: '127.0.0.1' }, () => socket.write(bytes));
    socket.on('data', (data) => {
      answer += data;
    });
    socket.on('close', () => resolve(answer));
    socket.on('error', reject);
  });
}

test.each([
  ['data that is not HTTP', 'hello\r\n\r\n', 400, 'bad_request'],
  [
    'header fields that are too large',
    `GET / HTTP/1.1\r\nHost: x\r\nX: ${'y'.repeat(20_000)}\r\n\r\n`,
    431,
    'headers_too_large',
  ],
  [
    'two lengths',
    'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n',
    400,
    'bad_request',
  ],
] as const)('%s on a raw socket gets a problem', async (_, bytes, status, code) => {
  const [head = '', body = ''] = (await raw(bytes)).split('\r\n\r\n');
  expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
  expect(head).toMatch(/Content-Type: application\/problem\+json/);
  expect(head).toMatch(/X-Request-Id: [0-9a-f-]{36}/);
  expect(JSON.parse(body)).toMatchObject({ status, code });
});

test('responses on a connection keep the order of the requests', async () => {
  const body = text('«slow:300» first');
  const first = `POST /predict HTTP/1.1\r\nHost: x\r\nX-API-Key: ${keys.good}\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
  const answers = await raw(`${first}not HTTP\r\n\r\n`);
  expect([...answers.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status)).toEqual(['200', '400']);
});

test('a request that takes too long to arrive gets 408', async () => {
  const server = createHttpServer(() => {}, {
    errorFormat: problemJson,
    log: silentLog,
    timeouts: { headersTimeout: 100, connectionsCheckingInterval: 20 },
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const answer = await raw('GET / HTTP/1.1\r\nHost: x\r\n', port);
  expect(answer).toMatch(/^HTTP\/1\.1 408 [\s\S]*"code":"request_timed_out"/);
  server.close();
});

test('an unexpected error is not described to the client', () => {
  const problem = problemOf(new Error('connect redis://:hunter2@db failed at /srv/app.js:1'));
  expect([problem.status, problem.code, problem.message]).toEqual([500, 'internal_error', 'Internal error']);
  expect(JSON.stringify(problemJson.body(problem, '1'))).not.toMatch(/hunter2|srv/);
});

test('a failed precondition on a file of the reference gets 400', async () => {
  const asset = `${url}/docs/assets/swagger-ui.css`;
  expect((await fetch(asset, { headers: { Range: 'bytes=99999999-' } })).status).toBe(200);
  const answer = await request(asset, { headers: { 'If-Match': '"z"' } });
  expectProblem(answer, 400, 'bad_request');
});

test('OPTIONS lists the methods, and HEAD is a GET without its body', async () => {
  const options = await fetch(`${url}/predict`, { method: 'OPTIONS' });
  expect([options.status, options.headers.get('allow')]).toEqual([204, 'POST, OPTIONS']);
  const head = await fetch(`${url}/health`, { method: 'HEAD' });
  expect([head.status, await head.text()]).toEqual([200, '']);
});

test('an address with too many failed authentications gets 429, and a valid key from there passes', async () => {
  const guarded = await rig.gateway({ AUTH_FAILURES_PER_MINUTE: '3' });
  await rig.redis.del('{sluice}:failed-auth:127.0.0.1');
  const guess = () => post(`${guarded.url}/predict`, 'a-guess-of-a-key', { text: 'fine' });
  for (let i = 0; i < 3; i++) expectProblem(await guess(), 403, 'invalid_api_key');
  for (let i = 0; i < 3; i++) {
    const refused = await guess();
    expectProblem(refused, 429, 'too_many_failures');
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
    expect(Number(refused.headers.get('retry-after'))).toBeLessThanOrEqual(60);
  }
  expect((await post(`${guarded.url}/predict`, keys.good ?? '', { text: 'fine' })).status).toBe(200);
});
