import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Sluice, SluiceError } from '@sluice/client';
import { textClassification } from '@sluice/tasks';
import { cliMain, Rig, root, until } from '../../../tests/harness.js';
import { type FileFormat, formatOf, type ReadOptions, readBatchFile } from './batchFile.js';

let rig: Rig;
let url: string;
let key: string;
beforeAll(async () => {
  rig = await Rig.start();
  [{ url }, , key] = await Promise.all([rig.gateway(), rig.worker(), rig.key()]);
});
afterAll(() => rig.close());

/** Starts `sluice`; `done` resolves to its output and exit status. */
function start(args: string[], input = '', env: Record<string, string> = {}) {
  const child = spawn(process.execPath, [cliMain, ...args], {
    env: { PATH: process.env.PATH, SLUICE_URL: url, SLUICE_API_KEY: key, ...env },
  });
  child.stdin.end(input);
  let [out, err] = ['', ''];
  child.stdout.on('data', (data) => {
    out += data;
  });
  child.stderr.on('data', (data) => {
    err += data;
  });
  const done = new Promise<{ code: number | null; out: string; err: string }>((resolve) => {
    child.on('close', (code) => resolve({ code, out, err }));
  });
  return { child, done };
}
const sluice = (...call: Parameters<typeof start>) => start(...call).done;
const file = (name: string) => join(rig.folder, name);
const lines = (text: string) =>
  text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

/** A server for the client that does what the gateway would not. */
async function serve(listener: RequestListener) {
  const server = createServer(listener).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return { port, close: () => new Promise((resolve) => server.close(resolve)) };
}

type ReadTestOptions = Partial<ReadOptions> & { format?: FileFormat };

/** What the reader makes of a file: the usable texts, the places of the rows, and the reasons of unusable ones. */
async function read(
  name: string,
  content: string | Buffer,
  { format = formatOf(name) ?? 'txt', ...options }: ReadTestOptions = {},
) {
  writeFileSync(file(name), content);
  const { rows, ...rest } = await readBatchFile(file(name), format, {
    maxTextChars: 100,
    input: textClassification.input,
    ...options,
  });
  return {
    ...rest,
    texts: rows.flatMap(({ item }) => (item.usable ? [item.value] : [])),
    places: rows.map(({ place }) => place),
    unusable: rows.flatMap(({ item }, i) => (item.usable ? [] : [[i, item.reason]])),
  };
}

test('predict prints one answer', async () => {
  expect((await sluice(['predict', 'This product is amazing!'])).out).toMatch(/^positive {2}0\.99/);
  const { out } = await sluice(['predict', 'This product is amazing!', '--json']);
  expect(JSON.parse(out)).toMatchObject({ sentiment: 'positive', status: 'success' });
});

test('a text file, standard input and NDJSON give NDJSON in input order', async () => {
  writeFileSync(file('texts.txt'), '\uFEFFgood\r\nawful\n\n');
  const fromFile = await sluice(['batch', file('texts.txt')]);
  expect(fromFile.code).toBe(0);
  expect(lines(fromFile.out).map(({ index, text, sentiment }) => [index, text, sentiment])).toEqual([
    [0, 'good', 'positive'],
    [1, 'awful', 'negative'],
  ]);
  expect(fromFile.err).toMatch(/completed: 2 rows, 0 with an error\n$/);
  const piped = await sluice(['batch', '-'], 'good\nawful\n');
  expect(lines(piped.out)).toHaveLength(2);
  writeFileSync(file('texts.ndjson'), '{"id": "a", "text": "good"}\n"awful"\n');
  const ndjson = await sluice(['batch', file('texts.ndjson'), '-o', file('out.ndjson')]);
  expect(ndjson.out).toMatch(/completed: 2 rows/);
  expect(lines(readFileSync(file('out.ndjson'), 'utf8')).map(({ id, text }) => [id, text])).toEqual([
    ['a', 'good'],
    [undefined, 'awful'],
  ]);
});

test('CSV keeps its other columns; quotes, line breaks in fields and a byte order mark are read correctly', async () => {
  writeFileSync(file('in.csv'), '\uFEFFid,comment,stars\n1,"good, ""really""",5\n2,"awful\nto the end",1\n');
  const { code } = await sluice(['batch', file('in.csv'), '--column', 'comment', '-o', file('out.csv')]);
  expect(code).toBe(0);
  const written = readFileSync(file('out.csv'), 'utf8');
  expect(written.replaceAll(/0\.\d+/g, 'N')).toBe(
    '\uFEFFid,comment,stars,sentiment,confidence,error\n' +
      '1,"good, ""really""",5,positive,N,\n' +
      '2,"awful\nto the end",1,negative,N,\n',
  );
  // A short first row, columns with our names and a repeated name are all kept.
  writeFileSync(file('odd.csv'), 'text,error,note,note\ngood\nawful,none,keep,too\n');
  await sluice(['batch', file('odd.csv'), '-o', file('odd.out.csv')]);
  expect(readFileSync(file('odd.out.csv'), 'utf8').replaceAll(/0\.\d+/g, 'N')).toBe(
    'text,error,note,note,sentiment,confidence,sluice_error\ngood,,,,positive,N,\nawful,none,keep,too,negative,N,\n',
  );
  const wrong = await sluice(['batch', file('in.csv')]);
  expect([wrong.code, wrong.out]).toEqual([1, '']);
  expect(wrong.err).toMatch(/no column "text" \(it has "id", "comment", "stars"\)/);
});

describe('every end of a line, also mixed', () => {
  const rows = ['I love it', 'awful', 'fine', 'bad'];
  const mixes = ['LF', 'CRLF', 'CR', 'CRLF LF', 'LF CRLF', 'LF CR CRLF', 'CR LF'];
  const breaks: Record<string, string> = { LF: '\n', CRLF: '\r\n', CR: '\r' };
  const joined = (lines: string[], ends: string[]) =>
    lines.map((line, i) => `${line}${ends[i % ends.length]}`).join('');

  test.each(mixes)('%s', async (mix) => {
    const ends = mix.split(' ').map((name) => breaks[name] ?? '');
    expect(await read('ends.txt', joined(rows, ends))).toMatchObject({ texts: rows });
    const json = joined(
      rows.map((row) => JSON.stringify(row)),
      ends,
    );
    expect(await read('ends.ndjson', json)).toMatchObject({ texts: rows });
    for (const [name, delimiter] of Object.entries({ 'ends.csv': ',', 'ends.tsv': '\t' })) {
      const table = ['id,text', ...rows.map((row, i) => `${i},${row}`)].map((row) =>
        row.replace(',', delimiter),
      );
      expect(await read(name, joined(table, ends))).toMatchObject({
        texts: rows,
        places: ['line 2', 'line 3', 'line 4', 'line 5'],
      });
    }
  });

  test('a quoted field keeps its line ends, and the lines after it are counted correctly', async () => {
    const text = 'id,text\r\n1,"a\r\nb\nc\rd"\r\n2,"e\r\nf"\n3,g\r\n';
    expect(await read('quoted.csv', text)).toMatchObject({
      texts: ['a\r\nb\nc\rd', 'e\r\nf', 'g'],
      places: ['line 2', 'line 6', 'line 8'],
    });
  });
});

test('a row with more fields than the header is refused with its line; empty ones at the end pass', async () => {
  await expect(
    read('surplus.csv', 'text\n"fine\r\nso far"\nfine, but the end is terrible\n'),
  ).rejects.toThrow(/surplus\.csv, line 4: 2 fields, but the header has 1\./);
  expect(await read('empty.csv', 'text,id\nfine,1,,\nbad,2, ,\n')).toMatchObject({ texts: ['fine', 'bad'] });
});

test.each([
  ['id,text\n1,fine\n2,"never\nclosed\n', 'line 3: the row has a double quote that is never closed'],
  ['id,text\r\n1,"a\r\nb"\r\n2,he said "no" to it\r\n', 'line 4: a double quote is in the wrong place'],
  ['sep=;\nid;text\n1;"no" he said\n', 'line 3: a double quote is in the wrong place'],
])('the CSV file %j is refused with the line', async (text, reason) => {
  await expect(read('quotes.csv', text)).rejects.toThrow(`quotes.csv, ${reason}`);
});

describe('the delimiter', () => {
  test.each<[string, string, string, ReadTestOptions]>([
    ['a.csv', 'text,id\na;b,1\n', 'a;b', {}],
    ['a.csv', 'text;id\n"a;b,c";1\n', 'a;b,c', {}],
    ['a.csv', 'id|text\n1|a;b,c\n', 'a;b,c', {}],
    ['a.csv', 'id\ttext\n1\ta;b,c\n', 'a;b,c', {}],
    ['a.csv', 'text\na;b\n', 'a;b', {}],
    ['a.csv', 'sep=;\r\nid;text\r\n1;a,b\r\n', 'a,b', {}],
    ['a.csv', 'sep=^\nid^text\n1^a,b;c\n', 'a,b;c', {}],
    ['a.tsv', 'id\ttext\n1\ta, b\n', 'a, b', {}],
    ['a.tsv', 'id;text\n1;a\tb\n', 'a\tb', { delimiter: ';' }],
    ['a.csv', 'id:text\n1:a,b\n', 'a,b', { delimiter: ':' }],
    ['a.txt', 'id,text\n1,a\n', 'a', { format: 'csv' }],
    ['a.csv', 'id;comment\n1;a\n', 'a', { column: 'comment' }],
  ])('of %s with %j', async (name, content, text, options) => {
    expect(await read(name, content, options)).toMatchObject({ texts: [text] });
  });

  test('is kept in a CSV output, with its sep= line and the byte order mark', async () => {
    writeFileSync(file('semi.csv'), '\uFEFFsep=;\r\nid;text\r\n1;good, really\r\n');
    expect((await sluice(['batch', file('semi.csv'), '-o', file('semi.out.csv')])).code).toBe(0);
    expect(readFileSync(file('semi.out.csv'), 'utf8').replaceAll(/0\.\d+/g, 'N')).toBe(
      '\uFEFFsep=;\nid;text;sentiment;confidence;error\n1;good, really;positive;N;\n',
    );
    await sluice(['batch', file('semi.csv'), '-o', file('semi.out.tsv')]);
    expect(readFileSync(file('semi.out.tsv'), 'utf8')).toMatch(
      /^\uFEFFid\ttext\tsentiment\tconfidence\terror\n1\tgood, really/,
    );
  });

  test('that is wrong, or a column that is missing or there twice, is an error', async () => {
    await expect(read('a.csv', 'id;text\n1;a\n', { delimiter: ',' })).rejects.toThrow(
      /no column "text" \(it has "id;text"\)/,
    );
    await expect(read('a.csv', 'text,text\na,b\n')).rejects.toThrow(/several columns "text"/);
  });
});

describe('the encoding', () => {
  const utf16 = (text: string) => Buffer.from(text, 'utf16le');
  const text = 'café “good” 好\n';
  test.each<[string, Buffer, string | undefined, boolean]>([
    ['UTF-8', Buffer.from(text), undefined, false],
    ['UTF-8 with a byte order mark', Buffer.from(`\uFEFF${text}`), undefined, true],
    ['UTF-16 little-endian by its byte order mark', utf16(`\uFEFF${text}`), undefined, true],
    ['UTF-16 big-endian by its byte order mark', utf16(`\uFEFF${text}`).swap16(), undefined, true],
    ['UTF-16 without one', utf16(text), 'utf-16le', false],
    ['UTF-16 by both', utf16(`\uFEFF${text}`), 'UTF-16', true],
    ['UTF-16 big-endian by both', utf16(`\uFEFF${text}`).swap16(), 'utf-16', true],
    ['UTF-16 by another spelling', utf16(`\uFEFF${text}`), 'UTF16LE', true],
  ])('%s', async (_name, bytes, encoding, bom) => {
    expect(await read('encoded.txt', bytes, { encoding })).toMatchObject({ texts: [text.trim()], bom });
  });

  test('others by their label, in all bytes', async () => {
    const windows = Buffer.concat([Buffer.from('caf'), Buffer.from([0xe9, 0x20, 0x93, 0x80, 0x94])]);
    expect(await read('windows.txt', windows, { encoding: 'windows-1252' })).toMatchObject({
      texts: ['café “€”'],
    });
    const japanese = Buffer.from([0x93, 0xfa, 0x96, 0x7b]);
    expect(await read('japanese.txt', japanese, { encoding: 'Shift_JIS' })).toMatchObject({
      texts: ['日本'],
    });
  });

  test.each<[string, Buffer, string | undefined, RegExp]>([
    [
      'no UTF-8',
      Buffer.from([0x63, 0xe9, 0x0a]),
      undefined,
      /is not valid UTF-8; save it as UTF-8, or name its encoding/,
    ],
    [
      'UTF-16 without a byte order mark',
      utf16('good\n'),
      undefined,
      /contains NUL characters; it may be UTF-16/,
    ],
    ['half a character of UTF-16', Buffer.from([0xff, 0xfe, 0x41]), undefined, /is not valid UTF-16LE/],
    ['a byte that Shift_JIS does not have', Buffer.from([0x41, 0x93]), 'shift_jis', /is not valid SHIFT_JIS/],
    [
      'a byte order mark of another encoding',
      Buffer.from('\uFEFFgood'),
      'windows-1252',
      /begins with the byte order mark of utf-8/,
    ],
    ['an unknown label', Buffer.from('good'), 'utf-99', /unknown encoding "utf-99"/],
  ])('%s is refused', async (_name, bytes, encoding, reason) => {
    await expect(read('wrong.txt', bytes, { encoding })).rejects.toThrow(reason);
  });
});

describe('the format', () => {
  test('a JSON list gives its texts with their ids', async () => {
    expect(
      await read('list.json', '["good", {"id": 7, "text": "bad"},\n{"id": "x", "text": "so so"}]'),
    ).toMatchObject({
      texts: ['good', { id: 7, text: 'bad' }, { id: 'x', text: 'so so' }],
    });
    await expect(read('list.json', '{"texts": ["good"]}')).rejects.toThrow(/is not a JSON list of texts/);
    await expect(read('list.json', '"good"\n"bad"\n')).rejects.toThrow(/is not valid JSON.*--format ndjson/);
  });

  test('of another type must be named', async () => {
    for (const name of ['report.pdf', 'table.xlsx', 'texts', 'texts.log']) {
      writeFileSync(file(name), 'good\n');
      const { code, err } = await sluice(['batch', file(name)]);
      expect([code, err]).toEqual([
        2,
        expect.stringContaining('set --format to one of txt, csv, tsv, json, ndjson'),
      ]);
    }
    expect(lines((await sluice(['batch', file('texts'), '--format', 'txt'])).out)).toHaveLength(1);
  });

  test.each([
    [['--format', 'xml'], /Allowed choices are txt, csv, tsv, json, ndjson/],
    [['--column', 'x'], /--column applies to csv and tsv files only/],
    [['--delimiter', ';'], /--delimiter applies to csv and tsv files only/],
    [['--delimiter', '::'], /one character/],
    [['--encoding', 'utf-99'], /unknown encoding/],
  ])('with %j is wrong use', async (args, reason) => {
    writeFileSync(file('use.txt'), 'good\n');
    const { code, err } = await sluice(['batch', file('use.txt'), ...args]);
    expect([code, err]).toEqual([2, expect.stringMatching(reason)]);
  });
});

test('a row without a usable text gets its own error in its place, and the others their answers', async () => {
  const long = 'x'.repeat(10_001);
  writeFileSync(file('rows.csv'), `id,text\n1,good\n2,\n3,${long}\n4,awful\n,,\n`);
  const { code, out } = await sluice(['batch', file('rows.csv'), '-o', file('rows.out.csv')]);
  expect([code, out]).toEqual([1, expect.stringMatching(/completed: 5 rows, 3 with an error\n$/)]);
  expect(readFileSync(file('rows.out.csv'), 'utf8').replaceAll(/0\.\d+/g, 'N')).toBe(
    'id,text,sentiment,confidence,error\n' +
      `1,good,positive,N,\n2,,,,validation_failed: The text is empty or only white space\n3,${long},,,validation_failed: The text is longer than 10000 characters\n4,awful,negative,N,\n,,,,validation_failed: The text is empty or only white space\n`,
  );

  writeFileSync(file('rows.txt'), 'good\n\n \nawful\n\n\n');
  const text = await sluice(['batch', file('rows.txt')]);
  expect(text.code).toBe(1);
  expect(
    lines(text.out).map(({ index, text, sentiment, error }) => [index, text, sentiment ?? error.detail]),
  ).toEqual([
    [0, 'good', 'positive'],
    [1, '', 'The text is empty or only white space'],
    [2, ' ', 'The text is empty or only white space'],
    [3, 'awful', 'negative'],
  ]);

  writeFileSync(
    file('rows.ndjson'),
    '"good"\n{"id": true, "text": "x"}\n{"id": 2}\nnot json\n\n{"id": 5, "text": "awful"}\n',
  );
  const ndjson = await sluice(['batch', file('rows.ndjson')]);
  expect(
    lines(ndjson.out).map(({ index, id, sentiment, error }) => [index, id, sentiment ?? error.detail]),
  ).toEqual([
    [0, undefined, 'positive'],
    [1, undefined, expect.stringMatching(/^"id": An id is a string/)],
    [2, 2, expect.stringMatching(/^"text": /)],
    [3, undefined, 'The line is not valid JSON'],
    [4, 5, 'negative'],
  ]);
});

test('with --strict, or without any usable text, nothing is submitted', async () => {
  const before = JSON.parse((await sluice(['jobs', '--json'])).out).length;
  writeFileSync(file('strict.csv'), 'text\n"two\nlines"\n\nfine\n');
  const strict = await sluice(['batch', file('strict.csv'), '--strict']);
  expect([strict.code, strict.err]).toEqual([
    1,
    expect.stringMatching(
      /strict\.csv: rows without a usable text: 1 of 3, first line 4: The text is empty.*leave out --strict/,
    ),
  ]);
  writeFileSync(file('empty.txt'), '\n\n');
  writeFileSync(file('long.txt'), 'x'.repeat(10_001));
  expect((await sluice(['batch', file('long.txt')])).err).toMatch(
    /rows without a usable text: 1 of 1, first line 1: .*10000 characters/,
  );
  expect((await sluice(['batch', file('empty.txt')])).err).toMatch(/has no texts/);
  expect(JSON.parse((await sluice(['jobs', '--json'])).out)).toHaveLength(before);
});

test('an empty field in quotes counts as a row, but an empty line at the end does not; the input is not overwritten', async () => {
  expect(await read('quotes.csv', 'text\ngood\n""\n')).toMatchObject({
    texts: ['good'],
    unusable: [[1, 'The text is empty or only white space']],
  });
  expect(await read('quotes.csv', '\n\ntext\n""\n\ngood\n\n')).toMatchObject({
    texts: ['good'],
    places: ['line 4', 'line 5', 'line 6'],
  });
  await expect(read('nothing.csv', '\n')).rejects.toThrow(/nothing\.csv has no header/);
  writeFileSync(file('self.txt'), 'good\n');
  const self = await sluice(['batch', file('self.txt'), '-o', join(rig.folder, '.', 'self.txt')]);
  expect([self.code, self.err]).toEqual([2, expect.stringContaining('is the input')]);
  expect(readFileSync(file('self.txt'), 'utf8')).toBe('good\n');
});

test('a truncated text is marked in a CSV output', async () => {
  const long = 'good '.repeat(1_500).trim();
  writeFileSync(file('cut.csv'), `text\n${long}\nawful\n`);
  expect((await sluice(['batch', file('cut.csv'), '-o', file('cut.out.csv')])).code).toBe(0);
  expect(readFileSync(file('cut.out.csv'), 'utf8').replaceAll(/0\.\d+/g, 'N')).toBe(
    `text,sentiment,confidence,truncated,error\n${long},positive,N,true,\nawful,negative,N,,\n`,
  );
});

test('an unreadable input or unwritable output is reported before anything is submitted', async () => {
  const before = JSON.parse((await sluice(['jobs', '--json'])).out).length;
  writeFileSync(file('fine.txt'), 'fine\n');
  for (const [args, reason] of [
    [[file('fine.txt'), '-o', '/nodir/x.csv'], 'Cannot write /nodir/x.csv: no such file or directory'],
    [[rig.folder, '--format', 'csv'], `Cannot read ${rig.folder}: illegal operation on a directory`],
    [[file('fine.txt'), '-o', rig.folder], `Cannot write ${rig.folder}: it is a folder`],
    [[file('missing.txt')], `Cannot read ${file('missing.txt')}: no such file or directory`],
    [[rig.folder, '--format', 'txt'], `Cannot read ${rig.folder}: illegal operation on a directory`],
  ] as const) {
    const { code, err } = await sluice(['batch', ...args]);
    expect([code, err]).toEqual([1, `sluice: ${reason}\n`]);
  }
  expect(JSON.parse((await sluice(['jobs', '--json'])).out)).toHaveLength(before);
});

test('a reader that stops early, as head does, ends the command quietly', async () => {
  writeFileSync(file('many.txt'), Array.from({ length: 3_000 }, (_, i) => `text ${i} is fine`).join('\n'));
  const { child, done } = start(['batch', file('many.txt')]);
  child.stdout.once('data', () => child.stdout.destroy());
  expect((await done).err).not.toMatch(/EPIPE|Error/);
});

test('errors keep what the server said, and a server that cannot be reached is named', async () => {
  const empty = await sluice(['predict', '']);
  expect([empty.code, empty.err]).toEqual([
    1,
    'sluice: The request does not match the schema\n  /text: The text is empty or only white space\n',
  ]);
  const unknown = await sluice(['job', 'nobody']);
  expect([unknown.code, unknown.err]).toEqual([1, 'sluice: No job of this key has the id nobody\n']);
  expect((await sluice(['--version'])).out).toMatch(/^\d+\.\d+\.\d+\n$/);
  const { port, close } = await serve(() => {});
  await close();
  const away = await sluice(['jobs'], '', { SLUICE_URL: `http://127.0.0.1:${port}/` });
  expect(away.err.split('\n').at(-2)).toBe(
    `sluice: Cannot reach http://127.0.0.1:${port}: connect ECONNREFUSED 127.0.0.1:${port}`,
  );
  expect(away.err).toMatch(/trying again in \d+ s\n/);
  const plain = await sluice(['jobs'], '', { SLUICE_URL: url.replace('http:', 'https:') });
  expect(plain.err.split('\n').at(-2)).toMatch(/: the server does not use TLS on this port; use http:/);
  const invalid = await sluice(['jobs'], '', { SLUICE_URL: 'localhost:8000' });
  expect([invalid.code, invalid.err]).toEqual([
    2,
    'sluice: SLUICE_URL: not a valid URL that begins with http:// or https://\n',
  ]);
});

test('predict reads standard input, and says why it waits', async () => {
  const env = { SLUICE_API_KEY: await rig.key({ limits: [{ limit: 1, windowSeconds: 8 }] }) };
  await sluice(['predict', 'fine'], '', env);
  const { out, err } = await sluice(['predict', '-'], 'This is amazing!', env);
  expect([out, err]).toEqual([
    expect.stringMatching(/^positive/),
    expect.stringMatching(/^sluice: Rate limit exceeded.*; trying again in [1-8] s\n$/),
  ]);
});

test('the same file gives the same job, which jobs, job and cancel show', async () => {
  writeFileSync(file('again.txt'), 'once\ntwice\n');
  const before = JSON.parse((await sluice(['jobs', '--json'])).out).length;
  for (let i = 0; i < 2; i++)
    expect((await sluice(['batch', file('again.txt'), '-o', file('again.ndjson')])).code).toBe(0);
  const jobs = JSON.parse((await sluice(['jobs', '--json'])).out);
  const [job] = jobs;
  const [first] = lines(readFileSync(file('again.ndjson'), 'utf8'));
  expect(first.text).toBe('once');
  expect(jobs).toHaveLength(before + 1);
  expect((await sluice(['jobs'])).out).toMatch(new RegExp(`${job.job_id} +completed +2 +2 +0`));
  expect((await sluice(['job', job.job_id, '--watch'])).out).toMatch(/completed: 2 of 2/);
  const canceled = await sluice(['cancel', job.job_id]);
  expect([canceled.code, canceled.err]).toEqual([1, 'sluice: The job has already ended: completed\n']);
});

test('--new and another default model give a new job for the same file', async () => {
  writeFileSync(file('model.txt'), 'once more\n');
  const jobOf = async (args: string[] = [], env = {}) =>
    JSON.parse(
      (await sluice(['batch', file('model.txt'), '-o', file('model.ndjson'), '--json', ...args], '', env))
        .out,
    );
  const first = await jobOf();
  expect((await jobOf()).job_id).toBe(first.job_id);
  expect((await jobOf(['--model', first.model])).job_id).toBe(first.job_id);
  expect((await jobOf(['--new'])).job_id).not.toBe(first.job_id);

  const other = await rig.gateway({ MODEL: 'acme/other', BATCH_TIMEOUT_SECONDS: '1' });
  // No worker serves it.
  expect(await jobOf([], { SLUICE_URL: other.url })).toMatchObject({ model: 'acme/other', status: 'failed' });
});

test('Ctrl-C leaves the job running and prints how to continue; the same command then finishes it', async () => {
  writeFileSync(
    file('long.txt'),
    Array.from({ length: 2_500 }, (_, i) => `text number ${i} is fine`).join('\n'),
  );
  const { child, done } = start(['batch', file('long.txt'), '-o', file('long.ndjson')]);
  const client = new Sluice({ url, apiKey: key });
  const newest = async () => (await client.jobs().next()).value;
  await until(
    'the job runs',
    async () => (await newest())?.total === 2_500 && (await newest())?.status === 'running',
  );
  child.kill('SIGINT');
  const { code, err } = await done;
  const job = await newest();
  expect(code).toBe(130);
  expect(err).toContain(`sluice job ${job?.job_id} --watch`);
  expect(err).toContain(`sluice cancel ${job?.job_id}`);
  const again = await sluice(['batch', file('long.txt'), '-o', file('long.ndjson'), '--json']);
  expect(JSON.parse(again.out)).toMatchObject({ job_id: job?.job_id, status: 'completed', completed: 2_500 });
  expect(lines(readFileSync(file('long.ndjson'), 'utf8')).map(({ index }) => index)).toEqual(
    Array.from({ length: 2_500 }, (_, i) => i),
  );
}, 60_000);

test('the client reports errors by code, retries after Retry-After, and can be aborted', async () => {
  const wrong = new Sluice({ url, apiKey: 'wrong' });
  await expect(wrong.predict('fine')).rejects.toMatchObject({ status: 403, code: 'invalid_api_key' });
  const tight = await rig.key({ limits: [{ limit: 1, windowSeconds: 1 }] });
  const patient = new Sluice({ url, apiKey: tight });
  const both = await Promise.all([patient.predict('good'), patient.predict('awful')]);
  expect(both.map(({ sentiment }) => sentiment)).toEqual(['positive', 'negative']);
  const impatient = new Sluice({ url, apiKey: tight, retries: 0 });
  await patient.predict('good');
  await expect(impatient.predict('good')).rejects.toBeInstanceOf(SluiceError);
  const gone = new Sluice({ url: 'http://127.0.0.1:9', apiKey: key });
  const signal = AbortSignal.timeout(100);
  await expect(gone.predict('good', { signal })).rejects.toHaveProperty('name', 'TimeoutError');
});

test.each([
  ['a day', 86_400],
  // Longer than a timer can be.
  ['a year', 31_536_000],
])(
  'the client does not wait for %s: it throws the error with its Retry-After',
  async (_name, windowSeconds) => {
    const apiKey = await rig.key({ limits: [{ limit: 1, windowSeconds }] });
    let requests = 0;
    const client = new Sluice({
      url,
      apiKey,
      fetch: (...call) => {
        requests++;
        return fetch(...call);
      },
    });
    await client.predict('good');
    await expect(client.predict('good')).rejects.toMatchObject({
      code: 'rate_limited',
      retryAfterSeconds: expect.any(Number),
    });
    expect(requests).toBe(2);
  },
);

test('events of a stream that ends without one are requested again, but not without end', async () => {
  let requests = 0;
  const { port, close } = await serve((_request, response) => {
    requests++;
    response.writeHead(200, { 'Content-Type': 'text/event-stream' }).end();
  });
  const client = new Sluice({ url: `http://127.0.0.1:${port}`, apiKey: 'any', maxWaitSeconds: 2 });
  const follow = async () => {
    for await (const _ of client.events('job'));
  };
  await expect(follow()).rejects.toThrow(/the stream of events ended, but not the job/);
  expect(requests).toBeGreaterThan(1);
  await close();
});

test('events of a stream that always ends after the same state are requested again, but not without end', async () => {
  const job = { job_id: 'x', status: 'running', completed: 1 };
  const { port, close } = await serve((_request, response) => {
    response
      .writeHead(200, { 'Content-Type': 'text/event-stream' })
      .end(`event: progress\ndata: ${JSON.stringify(job)}\n\n`);
  });
  const client = new Sluice({ url: `http://127.0.0.1:${port}`, apiKey: 'any', maxWaitSeconds: 2 });
  let events = 0;
  const follow = async () => {
    for await (const _ of client.events('x')) events++;
  };
  await expect(follow()).rejects.toThrow(/the stream of events ended, but not the job/);
  expect(events).toBeGreaterThan(1);
  await close();
});

test('events are read by the rules of Server-Sent Events, in parts of any size', async () => {
  const job = { job_id: 'x', status: 'running', total: 2, completed: 1, failed: 0 };
  const text =
    `\uFEFF: comment\r\nevent: progress\r\ndata: ${JSON.stringify(job)}\r\n\r\n` +
    `data:{"job_id":"é",\ndata: "status":"completed"}\n\n`;
  const { port, close } = await serve(async (_request, response) => {
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    for (const byte of Buffer.from(text)) await new Promise((sent) => response.write(Buffer.of(byte), sent));
    response.end();
  });
  const client = new Sluice({ url: `http://127.0.0.1:${port}`, apiKey: 'any' });
  const seen: unknown[] = [];
  for await (const event of client.events('x')) seen.push(event);
  expect(seen).toEqual([job, { job_id: 'é', status: 'completed' }]);
  await close();
});

test('a file for a model of another task: its first line names the model, and a row of another shape gets its own error', async () => {
  const models = rig.models([
    { id: 'sst2', task: 'text-classification', source: join(root, 'models/minilm-l6-sst2'), processes: 1 },
    {
      id: 'rank',
      task: 'text-ranking',
      source: join(root, 'tests/reference/models/roberta-rank'),
      dtype: 'fp32',
      processes: 1,
    },
  ]);
  const [other] = await Promise.all([rig.gateway(models), rig.worker(models)]);
  const input = { query: 'a bridge', texts: ['old', 'new'] };
  const lines = [
    { batch: { model: 'rank', parameters: { top_n: 1 } } },
    { id: 'good', input },
    { id: 'bad', input: { query: 'a bridge' } },
    'a text',
  ];
  const path = join(rig.folder, 'ranking.ndjson');
  writeFileSync(path, lines.map((line) => JSON.stringify(line)).join('\n'));
  const env = { SLUICE_URL: other.url, SLUICE_API_KEY: key };
  const run = async (...args: string[]) => {
    const cli = spawn(process.execPath, [cliMain, 'batch', path, ...args], {
      env: { ...process.env, ...env },
    });
    let output = '';
    cli.stdout.on('data', (part) => {
      output += part;
    });
    const [code] = await once(cli, 'close');
    return { code, output };
  };
  const { code, output } = await run();
  const results = output
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(code).toBe(1);
  expect(results).toMatchObject([
    { index: 0, id: 'good', output: [{ index: expect.any(Number), score: expect.any(Number) }] },
    { index: 1, id: 'bad', error: { code: 'validation_failed', detail: expect.stringContaining('"texts"') } },
    { index: 2, error: { code: 'validation_failed', detail: 'not {"query", "texts"}' } },
  ]);
  const table = join(rig.folder, 'ranking.csv');
  await run('-o', table);
  expect(readFileSync(table, 'utf8').split('\n')[0]).toBe('id,text,output,error');
});

test('a file of OpenAI batch requests is submitted as such; its output has their format, in order, with errors in their place', async () => {
  const models = rig.models([
    {
      id: 'vectors',
      task: 'feature-extraction',
      source: join(root, 'tests/reference/models/bert-mean'),
      dtype: 'fp32',
    },
  ]);
  const [gateway, worker] = await Promise.all([rig.gateway(models), rig.worker(models)]);
  const env = { SLUICE_URL: gateway.url };
  const line = (id: string, input: string, endpoint = '/v1/embeddings') =>
    JSON.stringify({ custom_id: id, method: 'POST', url: endpoint, body: { model: 'vectors', input } });
  const requests = [line('a', 'fine'), line('b', 'long '.repeat(100)), line('c', 'fine')];
  writeFileSync(file('requests.jsonl'), requests.join('\n'));
  const first = await sluice(['batch', file('requests.jsonl'), '-o', file('answers.jsonl')], '', env);
  expect([first.code, first.out]).toEqual([
    1,
    expect.stringMatching(/completed: 3 requests, 1 with an error/),
  ]);
  expect(
    lines(readFileSync(file('answers.jsonl'), 'utf8')).map(({ custom_id: id, response }) => [
      id,
      response.status_code,
    ]),
  ).toEqual([
    ['a', 200],
    ['b', 400],
    ['c', 200],
  ]);
  // The same file gives the same job; its upload is not kept.
  const again = await sluice(['batch', file('requests.jsonl')], '', env);
  expect(again.err).toContain(first.out.split(' ')[0]);
  expect(lines(again.out)).toHaveLength(3);
  expect((await sluice(['batch', file('requests.jsonl'), '--new'], '', env)).err).not.toContain(
    first.out.split(' ')[0],
  );
  expect(await rig.redis.keys('*:file:*')).toEqual([]);

  writeFileSync(file('requests.jsonl'), [line('a', 'fine'), line('a', ''), '{'].join('\n'));
  const refused = await sluice(['batch', file('requests.jsonl')], '', env);
  expect([refused.code, refused.err]).toEqual([
    1,
    expect.stringMatching(
      /nothing was submitted.\nline 2: custom_id "a" is used in line 1 too\nline 2: .*empty.*\nline 3: /,
    ),
  ]);
  writeFileSync(file('requests.jsonl'), line('a', 'fine', '/v1/chat/completions'));
  expect((await sluice(['batch', file('requests.jsonl')], '', env)).err).toContain(
    'unsupported url "/v1/chat/completions"',
  );
  const option = await sluice(['batch', file('requests.jsonl'), '--model', 'x'], '', env);
  expect([option.code, option.err]).toEqual([2, expect.stringContaining('--model cannot be used')]);
  await Promise.all([gateway.app.stop(), worker.stop()]);
});
