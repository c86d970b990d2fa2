import { createConnection } from 'node:net';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { post, Rig, request, until } from '../harness.js';

/** A number and not a time, so that a busy machine sends the same requests. */
const REQUESTS = process.env.SECURITY_SAMPLE ? 2_000 : 10_000;
const AT_ONCE = 32;
const SEED = Number(process.env.FUZZ_SEED || 14);

let rig: Rig;
beforeAll(async () => {
  rig = await Rig.start({ quiet: true });
});
afterAll(() => rig.close());

/** mulberry32: a small seeded generator of numbers in [0, 1). */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** The bytes of a hostile request, and whether the connection is closed while it is sent. */
function hostile(next: () => number, key: string): { bytes: Buffer; cut: boolean } {
  const pick = <T>(of: readonly T[]): T => of[Math.floor(next() * of.length)] as T;
  const bytes = (most: number) =>
    Buffer.from(Array.from({ length: Math.floor(next() * most) }, () => next() * 256));
  const paths = [
    '/predict',
    '/analyze',
    '/analyze_comment',
    '/analyze_batch',
    '/jobs',
    '/jobs/x/results',
    '/jobs/%00',
    '/items/',
    '/me',
    '/',
    '//',
    '/../../etc/passwd',
    '/docs/assets/..%2f..%2fpackage.json',
    '*',
    'http://[',
    '/predict?text=%ff&__proto__[x]=1',
    `/${'a'.repeat(9_000)}`,
    '/jobs?limit=1e9&cursor=..',
  ];
  const methods = [
    'POST',
    'POST',
    'POST',
    'GET',
    'HEAD',
    'DELETE',
    'OPTIONS',
    'PUT',
    'TRACE',
    'CONNECT',
    'PRI',
    'post',
    'G\u0000T',
  ];
  const bodies: (() => Buffer | string)[] = [
    () => '{"text": "fine"}',
    () => bytes(300),
    () => '['.repeat(Math.floor(next() * 50_000)),
    () =>
      `{"text": ${JSON.stringify(String.fromCharCode(...Array.from({ length: 40 }, () => next() * 65_536)))}}`,
    () => '{"__proto__": {"text": "x"}, "constructor": {"prototype": {"text": "x"}}}',
    () => gzipSync(`{"text": "${'x'.repeat(Math.floor(next() * 3_000_000))}"}`),
    () => gzipSync('{"text": "fine"}').subarray(0, Math.floor(next() * 30)),
    () => `{"texts": [${'"a",'.repeat(Math.floor(next() * 100))}"b"], "model": 7}`,
    () => `"a line"\n{"text": "another"}\n${next() < 0.5 ? '{' : ''}\n`,
    () => '{"text": "[CLS] [SEP] [PAD] \\u0000 \\ud800", "timeout_seconds": 1e999}',
    () => `{"text": 1e${Math.floor(next() * 999)}, "text": "twice", "top_k": -0}`,
  ];
  const body = Buffer.from(pick(bodies)());
  const fields = [
    `Content-Type: ${pick(['application/json', 'application/json', 'application/x-ndjson', 'application/json; charset=utf-7', 'text/plain', 'multipart/form-data; boundary=x', ';;;'])}`,
    ...(next() < 0.8
      ? [
          `X-API-Key: ${next() < 0.7 ? key : pick(['', 'x', `sk_${'0'.repeat(12)}_${'A'.repeat(32)}`, '\u00ff\u00fe', "' OR 1=1 --", 'k'.repeat(4_000)])}`,
        ]
      : []),
    ...(next() < 0.2
      ? [
          `Authorization: ${pick(['Bearer', `Bearer ${key}`, 'Basic eDp5', 'Bearer \t x', 'Digest nonsense'])}`,
        ]
      : []),
    ...(body[0] === 0x1f && next() < 0.8
      ? ['Content-Encoding: gzip']
      : next() < 0.1
        ? [`Content-Encoding: ${pick(['gzip', 'br', 'gzip, gzip', 'identity', 'x'])}`]
        : []),
    ...(next() < 0.1 ? [`Expect: ${pick(['100-continue', '200-maybe'])}`] : []),
    ...(next() < 0.1 ? [`Idempotency-Key: ${pick(['a', 'b', '', 'c'.repeat(300)])}`] : []),
    ...(next() < 0.1 ? [`X-Request-Id: ${pick(['ok', '<script>', 'a'.repeat(500)])}`] : []),
    ...(next() < 0.1
      ? [
          pick([
            'Host: two',
            'no colon here',
            ': empty',
            'X\u0001: y',
            'Folded: a\r\n b',
            `Big: ${'y'.repeat(20_000)}`,
            'Upgrade: websocket\r\nConnection: Upgrade',
            'Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings',
          ]),
        ]
      : []),
  ];
  // Most requests are valid HTTP, so that they get past the parser.
  const length = (
    next() < 0.85
      ? () => [`Content-Length: ${body.length}`]
      : pick([
          () => [],
          () => [
            `Content-Length: ${pick(['-1', '1e3', '18446744073709551616', '0x10', String(body.length + 5), '3'])}`,
          ],
          () => ['Transfer-Encoding: chunked'],
          () => [`Content-Length: ${body.length}`, 'Transfer-Encoding: chunked'],
          () => ['Transfer-Encoding: gzip, chunked, identity'],
        ])
  )();
  const version = next() < 0.92 ? 'HTTP/1.1' : pick(['HTTP/1.0', 'HTTP/2.0', 'HTTP/9', '']);
  const head = `${next() < 0.6 ? 'POST' : pick(methods)} ${next() < 0.5 ? pick(paths.slice(0, 4)) : pick(paths)} ${version}\r\n${['Host: x', ...fields, ...length].join('\r\n')}\r\n\r\n`;
  const all = Buffer.concat([Buffer.from(head, 'latin1'), body]);
  const cut = next() < 0.3;
  return {
    bytes: next() < 0.05 ? bytes(2_000) : cut ? all.subarray(0, Math.floor(next() * all.length)) : all,
    cut,
  };
}

/** Sends bytes; resolves to the beginning of the response, if one arrives soon. */
function send(port: number, { bytes, cut }: { bytes: Buffer; cut: boolean }): Promise<string> {
  return new Promise((resolve) => {
    let answer = '';
    const socket = createConnection({ port, host: '127.0.0.1' }, () => {
      socket.write(bytes);
      if (cut) setTimeout(() => socket.destroy(), 5);
    });
    const settle = () => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(300, settle);
    socket.on('data', (data) => {
      if (answer.length < 20_000) answer += data;
    });
    socket.on('error', settle);
    socket.on('close', settle);
  });
}

test('after 10,000 hostile requests the answers are the same and no job is lost', async () => {
  const { app, url } = await rig.gateway({ AUTH_FAILURES_PER_MINUTE: '10000000', LOG_LEVEL: 'error' });
  const worker = await rig.worker();
  const port = Number(new URL(url).port);
  const [key, attacker] = [await rig.key({ bulkLimit: 1_000_000 }), await rig.key({ bulkLimit: 1_000_000 })];
  const predict = async () => (await post(`${url}/predict`, key, { text: 'This product is amazing!' })).body;
  const before = await predict();
  const texts = Array.from({ length: 3_000 }, (_, i) => `sentence number ${i} is ${i % 2 ? 'good' : 'bad'}`);
  const { job_id: id } = (await post(`${url}/analyze_batch`, key, { texts })).body;

  const next = random(SEED);
  const statuses = new Map<string, number>();
  let count = 0;
  const attack = async () => {
    while (count < REQUESTS) {
      count++;
      const answer = await send(port, hostile(next, attacker));
      const status = /^HTTP\/1\.1 (\d+)/.exec(answer)?.[1] ?? 'none';
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
      // No response contains internals, and 500 appears only if the model fails.
      expect(answer).not.toMatch(/node_modules|\/src\/|internal_error|at \w+ \(|redis:\/\//);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, attack));
  process.stdout.write(`${count} hostile requests, seed ${SEED}: ${JSON.stringify([...statuses].sort())}\n`);
  // The requests were refused by different checks.
  for (const status of ['200', '400', '401', '403', '404', '405', '413', '415', '422']) {
    expect(statuses.get(status) ?? 0).toBeGreaterThan(0);
  }

  expect([app.child.exitCode, worker.child.exitCode]).toEqual([null, null]);
  const { requests_remaining: _before, ...same } = before;
  const { requests_remaining: _after, ...after } = await predict();
  expect(after).toEqual(same);
  const headers = { 'X-API-Key': key, Accept: 'application/x-ndjson' };
  await until(
    'the job is finished',
    async () => (await request(`${url}/jobs/${id}`, { headers })).body.status === 'completed',
    60_000,
  );
  const results = (await request(`${url}/jobs/${id}/results`, { headers })).body
    .trim()
    .split('\n')
    .map((line: string) => JSON.parse(line));
  expect(results.map((result: { text: string }) => result.text)).toEqual(texts);
  expect(results.every((result: { output?: unknown }) => result.output)).toBe(true);
}, 900_000);
