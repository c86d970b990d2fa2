import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { request as httpsRequest } from 'node:https';
import { createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { generate } from 'selfsigned';
import { clientOf } from '../apps/gateway/src/auth/failedAuthentications.js';
import { faultyWorkerMain, gatewayMain, post, Rig, request, until } from './harness.js';

let rig: Rig;
let url: string;
let port: number;
let key: string;
beforeAll(async () => {
  rig = await Rig.start();
  const [gateway] = await Promise.all([
    rig.gateway({ AUTH_FAILURES_PER_MINUTE: '1000' }),
    rig.worker({ MODEL_PROCESSES: '1' }, faultyWorkerMain),
  ]);
  url = gateway.url;
  port = Number(new URL(url).port);
  key = await rig.key();
});
afterAll(() => rig.close());

/** Sends bytes; resolves to everything that is received until the connection closes. */
function raw(...parts: (string | Buffer)[]): Promise<string> {
  return new Promise((resolve, reject) => {
    let answer = '';
    const socket = createConnection({ port, host: '127.0.0.1' }, () => {
      for (const part of parts) socket.write(part);
    });
    socket.on('data', (data) => {
      answer += data;
    });
    socket.on('close', () => resolve(answer));
    socket.on('error', reject);
  });
}
const sent = (body: string, fields: string[] = []) =>
  raw(
    [
      'POST /predict HTTP/1.1',
      'Host: x',
      `X-API-Key: ${key}`,
      ...(fields.some((field) => /^content-type/i.test(field)) ? [] : ['Content-Type: application/json']),
      `Content-Length: ${Buffer.byteLength(body)}`,
      'Connection: close',
      ...fields,
      '',
      body,
    ].join('\r\n'),
  );

test.each(['/health', '/predict', '/nowhere'])(
  '%s has security header fields, and does not name its software',
  async (path) => {
    const { headers } = await fetch(`${url}${path}`);
    expect(headers.get('x-content-type-options')).toBe('nosniff');
    expect(headers.get('content-security-policy')).toMatch(/default-src 'self'.*frame-ancestors 'none'/);
    expect(headers.get('x-frame-options')).not.toBeNull();
    for (const field of [
      'x-powered-by',
      'server',
      'strict-transport-security',
      'access-control-allow-origin',
    ]) {
      expect(headers.get(field)).toBeNull();
    }
  },
);

test('a URL that is too long gets 414', async () => {
  expect(await request(`${url}/jobs?cursor=${'a'.repeat(9_000)}`)).toMatchObject({
    status: 414,
    body: { code: 'uri_too_long' },
  });
});

test('JSON that is nested too deeply is refused; brackets in strings do not count', async () => {
  const deep = await request(`${url}/predict`, {
    method: 'POST',
    headers: { 'X-API-Key': key, 'Content-Type': 'application/json' },
    body: `{"text": "fine", "x": ${'['.repeat(500_000)}`,
  });
  expect([deep.status, deep.body.detail]).toEqual([400, 'The body is nested too deeply']);
  const flat = await post(`${url}/predict`, key, { text: `fine \\"${'[{'.repeat(100)}`, x: [[[[1]]]] });
  expect(flat.status).toBe(200);
});

test('__proto__ and similar names are ignored like other unknown fields', async () => {
  for (const body of [
    '{"__proto__": {"text": "fine"}}',
    '{"constructor": {"prototype": {"text": "fine"}}}',
  ]) {
    expect(await sent(body)).toMatch(/^HTTP\/1\.1 422 [\s\S]*"pointer":"\/text"/);
  }
  expect(await sent('{"text": "fine", "__proto__": {"status": "owned"}, "toString": 1}')).toMatch(
    /^HTTP\/1\.1 200 [\s\S]*"status":"success"/,
  );
  expect((await request(`${url}/health`)).body).toEqual({ status: 'ok' });
});

test.each([
  ['two hosts', ['Host: y'], 400],
  ['two content types', ['Content-Type: application/json', 'Content-Type: text/plain'], 400],
  ['two idempotency keys', ['Idempotency-Key: a', 'Idempotency-Key: b'], 400],
  ['two keys that differ', ['X-API-Key: other'], 401],
  ['two lengths', ['Content-Length: 3'], 400],
  ['a length and chunks', ['Transfer-Encoding: chunked'], 400],
  ['a charset that is not UTF-8', ['Content-Type: application/json; charset=utf-16'], 415],
  ['an encoding that is not gzip', ['Content-Encoding: br'], 415],
  ['two encodings', ['Content-Encoding: gzip, gzip'], 415],
])('a request with %s is refused', async (_, fields, status) => {
  expect(await sent('{"text": "fine"}', fields)).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
});

test('200 incomplete requests and 200 incomplete bodies do not block others, and time out', async () => {
  const head = `POST /predict HTTP/1.1\r\nHost: x\r\nX-API-Key: ${key}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n`;
  const sockets: Socket[] = [];
  const closed: Promise<unknown>[] = [];
  let answers = '';
  for (let i = 0; i < 400; i++) {
    const socket = createConnection({ port, host: '127.0.0.1' });
    sockets.push(socket);
    closed.push(once(socket, 'close'));
    socket.on('data', (data) => {
      answers += data;
    });
    await once(socket, 'connect');
    socket.write(i % 2 ? head : `${head}\r\n{"text": `);
  }
  for (let i = 0; i < 20; i++) expect((await post(`${url}/predict`, key, { text: 'fine' })).status).toBe(200);
  await Promise.all(closed);
  expect([...answers.matchAll(/HTTP\/1\.1 408 /g)]).toHaveLength(400);
  expect([...answers.matchAll(/"code":"request_timed_out"/g)]).toHaveLength(400);
});

test('a connection without a request is closed', async () => {
  const socket = createConnection({ port, host: '127.0.0.1' });
  await once(socket, 'connect');
  socket.resume();
  await once(socket, 'close');
});

test('a body that continues after its response is cut off', async () => {
  const socket = createConnection({ port, host: '127.0.0.1' });
  let answer = '';
  socket.on('data', (data) => {
    answer += data;
  });
  socket.on('error', () => {});
  socket.write(`POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n`);
  const more = setInterval(() => socket.write('1\r\nx\r\n'), 50);
  await once(socket, 'close');
  clearInterval(more);
  expect(answer).toMatch(/^HTTP\/1\.1 401 /);
});

test('only configured origins may call from a browser', async () => {
  const origin = 'https://app.example.com';
  const open = await rig.gateway({ CORS_ORIGINS: `${origin}, http://localhost:3000` });
  const preflight = (from: string) =>
    fetch(`${open.url}/predict`, {
      method: 'OPTIONS',
      headers: {
        Origin: from,
        'Access-Control-Request-Method': 'POST',
        'Access-Control-Request-Headers': 'x-api-key',
      },
    });
  const allowed = await preflight(origin);
  expect([allowed.status, allowed.headers.get('access-control-allow-origin')]).toEqual([204, origin]);
  expect(allowed.headers.get('access-control-allow-headers')).toMatch(/X-API-Key/);
  expect((await preflight('https://evil.example.com')).headers.get('access-control-allow-origin')).toBeNull();
  const answer = await fetch(`${open.url}/me`, { headers: { Origin: origin, 'X-API-Key': key } });
  expect([answer.status, answer.headers.get('access-control-allow-origin')]).toEqual([200, origin]);
  expect(answer.headers.get('access-control-expose-headers')).toMatch(/RateLimit/);
  expect(answer.headers.get('vary')).toMatch(/Origin/);
});

test('X-Forwarded-For is used only if it comes from a trusted proxy', async () => {
  const wrong = (to: string, client: string) =>
    request(`${to}/me`, { headers: { 'X-API-Key': 'a-wrong-key', 'X-Forwarded-For': client } });
  const limit = { AUTH_FAILURES_PER_MINUTE: '1' };
  const trusting = await rig.gateway({ ...limit, TRUST_PROXY: 'loopback' });
  const statuses = [];
  for (const client of ['192.0.2.1', '192.0.2.1', '192.0.2.2', '2001:db8::1', '2001:db8::2']) {
    statuses.push((await wrong(trusting.url, client)).status);
  }
  expect(statuses).toEqual([403, 429, 403, 403, 429]);

  const direct = await rig.gateway(limit);
  await rig.redis.del('{sluice}:failed-auth:127.0.0.1');
  expect((await wrong(direct.url, '192.0.2.3')).status).toBe(403);
  expect((await wrong(direct.url, '192.0.2.4')).status).toBe(429);
});

test.each([
  ['127.0.0.1', '127.0.0.1'],
  ['::ffff:127.0.0.1', '127.0.0.1'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
  ['192.0.2.1:55123', '192.0.2.1'],
  ['[2001:db8:1:2::5]:443', '2001:db8:1:2::/64'],
  ['not an address', 'unknown'],
  [undefined, 'unknown'],
])('the address %s is counted as %s', (address, client) => {
  expect(clientOf(address)).toBe(client);
});

test('failures of a blocked address are not counted in Redis', async () => {
  const guarded = await rig.gateway({ AUTH_FAILURES_PER_MINUTE: '1', TRUST_PROXY: 'loopback' });
  const guess = () =>
    request(`${guarded.url}/me`, {
      headers: { 'X-API-Key': 'a-wrong-key', 'X-Forwarded-For': '198.51.100.7' },
    });
  for (let i = 0; i < 3; i++) await guess();
  const counted = await rig.redis.get('{sluice}:failed-auth:198.51.100.7');
  expect(Number(counted)).toBeGreaterThan(0);
  for (let i = 0; i < 5; i++) expect((await guess()).status).toBe(429);
  expect(await rig.redis.get('{sluice}:failed-auth:198.51.100.7')).toBe(counted);
});

/** Writes a new certificate and key over the previous ones; resolves to the settings with the file names. */
async function issue(commonName: string) {
  const [TLS_CERT, TLS_KEY] = [join(rig.folder, 'cert.pem'), join(rig.folder, 'key.pem')];
  const generated = await generate([{ name: 'commonName', value: commonName }], {
    keySize: 2048,
    algorithm: 'sha256',
  });
  writeFileSync(TLS_KEY, generated.private);
  writeFileSync(TLS_CERT, generated.cert);
  return { TLS_CERT, TLS_KEY };
}

test('serves HTTPS, and uses a renewed certificate without a restart', async () => {
  const app = rig.spawn(gatewayMain, await issue('first'));
  const { port: tlsPort } = await app.ready();
  const connect = () =>
    new Promise<{ status: number | undefined; hsts: unknown; name: string }>((resolve, reject) => {
      const call = httpsRequest(
        {
          port: Number(tlsPort),
          host: '127.0.0.1',
          path: '/health',
          rejectUnauthorized: false,
          agent: false,
        },
        (response) => {
          const socket = response.socket as import('node:tls').TLSSocket;
          const name = String(socket.getPeerCertificate().subject.CN);
          response.resume();
          resolve({ status: response.statusCode, hsts: response.headers['strict-transport-security'], name });
        },
      );
      call.on('error', reject);
      call.end();
    });
  expect(await connect()).toEqual({ status: 200, hsts: 'max-age=31536000', name: 'first' });
  await issue('second');
  await until('the new certificate is used', async () => (await connect()).name === 'second', 25_000);
});

test('connections without a TLS handshake are closed', async () => {
  const app = rig.spawn(gatewayMain, await issue('slow'));
  const { port: tlsPort } = await app.ready();
  // Nothing, the beginning of a ClientHello, plain HTTP.
  const closed = ['', '\u0016\u0003\u0001\u0002\u0000\u0001', 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'].map(
    async (bytes) => {
      const socket = createConnection({ port: Number(tlsPort), host: '127.0.0.1' });
      socket.on('error', () => {});
      socket.resume();
      const gone = once(socket, 'close');
      socket.write(Buffer.from(bytes, 'latin1'));
      await gone;
    },
  );
  await Promise.all(closed);
});

test('an invalid request target gets a response in order, with the id of the caller', async () => {
  const body = '{"text": "«slow:300» first"}';
  const first = `POST /predict HTTP/1.1\r\nHost: x\r\nX-API-Key: ${key}\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
  for (const second of [
    'GET http://[ HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\n\r\n',
    'CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n',
  ]) {
    const answers = await raw(first, second);
    expect([...answers.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status)).toEqual([
      '200',
      second.startsWith('GET') ? '400' : '405',
    ]);
    if (second.startsWith('GET')) expect(answers).toMatch(/^X-Request-Id: mine\r$/im);
  }
  const expecting = await raw('GET http://[ HTTP/1.1\r\nHost: x\r\nExpect: x\r\n\r\n');
  expect(expecting).toMatch(/^HTTP\/1\.1 400 [\s\S]*"code":"bad_request"/);
});

test.each([
  [{ TLS_CERT: '/nowhere.pem' }, /TLS_CERT, TLS_KEY: set both/],
  [{ TLS_CERT: '/nowhere.pem', TLS_KEY: '/nowhere.key' }, /TLS_CERT, TLS_KEY: .*no such file/],
  [{ TRUST_PROXY: 'true' }, /TRUST_PROXY: not an address/],
  [{ CORS_ORIGINS: 'app.example.com' }, /CORS_ORIGINS: not an origin/],
  [{ ADMIN_TOKEN: 'short' }, /ADMIN_TOKEN: not 16 to 256/],
])('%j stops the start with one line', async (env, line) => {
  const app = rig.spawn(gatewayMain, env);
  app.ready().catch(() => {});
  expect(await app.exit()).toBe(78);
  expect(app.output).toMatch(line);
});
