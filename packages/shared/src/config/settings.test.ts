import { expect, test } from '@jest/globals';
import { readSettings, settingDocs, settingsSchema } from './settings.js';

test('every setting has a default', () => {
  expect(readSettings({})).toMatchObject({
    PORT: 8000,
    MODEL_PROCESSES: expect.any(Number),
    RATE_LIMIT_REQUESTS: 10,
    RATE_LIMIT_WINDOW_SECONDS: 60,
    REQUEST_TIMEOUT_SECONDS: 5,
    STALL_SECONDS: 2,
    PUBLIC_DOCS: true,
  });
});

test('an empty value counts as unset', () => {
  expect(readSettings({ PORT: '', LOG_LEVEL: '' })).toMatchObject({ PORT: 8000, LOG_LEVEL: 'info' });
});

test.each([
  ['PORT', 'http'],
  ['PORT', '70000'],
  ['PORT', '1.5'],
  ['REDIS_URL', 'localhost:6379'],
  ['REDIS_URL', 'http://localhost'],
  ...[
    'redis+sentinel://host:26379',
    'redis+sentinel://host/name/x',
    'redis+sentinel://:pa@ss@host/name',
    'redis+sentinel://h1:26379/m?sentinel_password=p@h3/x',
    'redis+sentinel://h1:26379/m?sentinel_password=%zz',
    'redis+sentinel://h1/m?sentinel_password=a&sentinel_password=b',
    'redis+sentinel://h1/m?other=1',
    'redis+sentinel://h1,,h2/m',
    'redis+cluster://host:6379/1',
    'redis+cluster://host?x=1',
    'redis+other://host',
  ].map((value) => ['REDIS_URL', value] as [string, string]),
  ...['p/ss', 'p#ss', 'p?ss', 'p@ss', 'p ss', 'p\\ss', 'p"ss', 'ss/w#rd', '50%off', 'p%ff'].map(
    (password) => ['REDIS_URL', `redis://:${password}@localhost:6379`],
  ),
  ...['abc', '-1', '0/1', '1x', '?password=secret', '?db=5', '0?family=6&db=5', '?family=abc'].map(
    (database) => ['REDIS_URL', `redis://localhost:6379/${database}`],
  ),
  ...[
    '/?db=1',
    '/redis%zz.sock',
    ':secret@/redis.sock',
    'host/redis.sock',
    '/redis.sock?db=x',
    '/redis.sock?password=secret',
    '/redis.sock?family=6',
  ].map((rest) => ['REDIS_URL', `unix://${rest}`]),
  ['MODEL_DTYPE', 'q3'],
  ['MODEL_PROCESSES', '0'],
  ['RATE_LIMIT_REQUESTS', '-1'],
  ['REQUEST_TIMEOUT_SECONDS', '0'],
  ['PUBLIC_DOCS', 'maybe'],
  ['LOG_LEVEL', 'loud'],
  ...[
    'two\nlines-of-text',
    'short',
    'elevenchars',
    'schlüssel-mit-umlaut',
    'with a space in it',
    'x'.repeat(257),
  ].map((key) => ['SLUICE_DEV_KEY', key]),
  ['MODEL', '../secret'],
  ['MODEL', 'a:b'],
] as [string, string][])(
  '%s=%s is refused with one line that names the variable, and its value unless that is secret',
  (name, value) => {
    let message = '';
    try {
      readSettings({ [name]: value });
    } catch (error) {
      message = String(error);
    }
    expect(message).toMatch(new RegExp(`^SettingsError: ${name}: .+$`));
    expect(message.split('\n')).toHaveLength(1);
    const isSecret = name === 'REDIS_URL' || name === 'SLUICE_DEV_KEY';
    if (value.length > 3) expect(message.includes(value)).toBe(!isSecret);
  },
);

test.each([
  ['REDIS_URL', 'redis://localhost:63790000', 'not a valid URL; check the part after ://'],
  ['HF_ENDPOINT', 'HTTPS://hub.example:x', 'not a valid URL; check the part after ://'],
  ['HF_ENDPOINT', 'hub.example', 'not a URL that begins with http:// or https://'],
  [
    'REDIS_URL',
    'localhost:6379',
    'not a URL that begins with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://',
  ],
])('%s=%s is refused with the reason', (name, value, reason) => {
  expect(() => readSettings({ [name]: value })).toThrow(reason);
});

test.each(['', '/', '/0', '/15', '?family=6'])('REDIS_URL may end with "%s"', (end) => {
  const REDIS_URL = `redis://user:p%2Fss%40w%23rd@localhost:6379${end}`;
  expect(readSettings({ REDIS_URL })).toMatchObject({ REDIS_URL });
});

test.each(['', '?db=3'])('REDIS_URL may be a Unix socket with a password and end with "%s"', (end) => {
  const REDIS_URL = `unix://user:p%2Fss@localhost/run/redis/redis%20server.sock${end}`;
  expect(readSettings({ REDIS_URL })).toMatchObject({ REDIS_URL });
});

test('every variable has a unit, a meaning and a default', () => {
  const rows = settingDocs();
  expect(rows.map(({ name }) => name)).toEqual(Object.keys(settingsSchema.shape));
  for (const row of rows) {
    expect(row).toEqual({
      name: expect.any(String),
      unit: expect.stringMatching(/./),
      meaning: expect.stringMatching(/./),
      default: expect.any(String),
    });
    expect(row.default).not.toMatch(/undefined|NaN|object/);
  }
});
