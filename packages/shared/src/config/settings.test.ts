import { expect, test } from '@jest/globals';
import { readSettings, settingRows, settingsSchema } from './settings.js';

test('has a default for everything', () => {
  expect(readSettings({})).toMatchObject({
    PORT: 8000,
    MODEL: 'minilm-l6-sst2',
    RATE_LIMIT_REQUESTS: 10,
    RATE_LIMIT_WINDOW_SECONDS: 60,
    REQUEST_TIMEOUT_SECONDS: 5,
    STALL_SECONDS: 2,
    PUBLIC_DOCS: true,
  });
});

test('an empty value counts as unset', () => {
  expect(readSettings({ PORT: '', MODEL: '' })).toMatchObject({ PORT: 8000, MODEL: 'minilm-l6-sst2' });
});

test.each([
  ['PORT', 'http'],
  ['PORT', '70000'],
  ['PORT', '1.5'],
  ['REDIS_URL', 'localhost:6379'],
  ['REDIS_URL', 'http://localhost'],
  ['MODEL_DTYPE', 'q3'],
  ['MODEL_PROCESSES', '0'],
  ['RATE_LIMIT_REQUESTS', '-1'],
  ['REQUEST_TIMEOUT_SECONDS', '0'],
  ['PUBLIC_DOCS', 'maybe'],
  ['LOG_LEVEL', 'loud'],
  ['SLUICE_DEV_KEY', 'two\nlines'],
  ['MODEL', '../secret'],
  ['MODEL', 'a:b'],
])('%s=%s is refused in a line that names the variable and does not repeat the value', (name, value) => {
  let message = '';
  try {
    readSettings({ [name]: value });
  } catch (error) {
    message = String(error);
  }
  expect(message).toMatch(new RegExp(`^SettingsError: ${name}: .+$`));
  expect(message.split('\n')).toHaveLength(1);
  if (value.length > 3) expect(message).not.toContain(value);
});

test('every variable says its unit, its meaning and its default', () => {
  const rows = settingRows();
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
