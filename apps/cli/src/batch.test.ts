import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Sluice, SluiceError } from '@sluice/client';
import { cliMain, Rig, until } from '../../../tests/harness.js';

let rig: Rig;
let url: string;
let key: string;
beforeAll(async () => {
  rig = await Rig.start();
  [{ url }, , key] = await Promise.all([rig.gateway(), rig.worker(), rig.key()]);
});
afterAll(() => rig.close());

/** Starts `sluice`; `done` resolves to what it printed and its exit status. */
function start(args: string[], input = '') {
  const child = spawn(process.execPath, [cliMain, ...args], {
    env: { PATH: process.env.PATH, SLUICE_URL: url, SLUICE_API_KEY: key },
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
const sluice = (args: string[], input = '') => start(args, input).done;
const file = (name: string) => join(rig.folder, name);
const lines = (text: string) =>
  text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

test('predict gives one answer', async () => {
  expect((await sluice(['predict', 'This product is amazing!'])).out).toMatch(/^positive {2}0\.99/);
  const { out } = await sluice(['predict', 'This product is amazing!', '--json']);
  expect(JSON.parse(out)).toMatchObject({ sentiment: 'positive', status: 'success' });
});

test('a text file, standard input and NDJSON give NDJSON in input order', async () => {
  writeFileSync(file('texts.txt'), '\uFEFFgood\r\n\r\nawful\n');
  const fromFile = await sluice(['batch', file('texts.txt')]);
  expect(fromFile.code).toBe(0);
  expect(lines(fromFile.out).map(({ index, text, sentiment }) => [index, text, sentiment])).toEqual([
    [0, 'good', 'positive'],
    [1, 'awful', 'negative'],
  ]);
  expect(fromFile.err).toMatch(/completed: 2 of 2 texts, 0 with an error\n$/);
  const piped = await sluice(['batch', '-'], 'good\nawful\n');
  expect(lines(piped.out)).toHaveLength(2);
  writeFileSync(file('texts.ndjson'), '{"id": "a", "text": "good"}\n"awful"\n');
  const ndjson = await sluice(['batch', file('texts.ndjson'), '-o', file('out.ndjson')]);
  expect(ndjson.out).toMatch(/completed: 2 of 2/);
  expect(lines(readFileSync(file('out.ndjson'), 'utf8')).map(({ id, text }) => [id, text])).toEqual([
    ['a', 'good'],
    [undefined, 'awful'],
  ]);
});

test('CSV keeps its other columns, and survives quotes, newlines in fields and a byte order mark', async () => {
  writeFileSync(file('in.csv'), '\uFEFFid,comment,stars\n1,"good, ""really""",5\n2,"awful\nto the end",1\n');
  const { code } = await sluice(['batch', file('in.csv'), '--column', 'comment', '-o', file('out.csv')]);
  expect(code).toBe(0);
  const written = readFileSync(file('out.csv'), 'utf8');
  expect(written.replaceAll(/0\.\d+/g, 'N')).toBe(
    'id,comment,stars,sentiment,confidence,error\n' +
      '1,"good, ""really""",5,positive,N,\n' +
      '2,"awful\nto the end",1,negative,N,\n',
  );
  // A short row at the head, columns of our names, the same name twice: all as they were.
  writeFileSync(file('odd.csv'), 'text,error,note,note\ngood\nawful,none,keep,too\n');
  await sluice(['batch', file('odd.csv'), '-o', file('odd.out.csv')]);
  expect(readFileSync(file('odd.out.csv'), 'utf8').replaceAll(/0\.\d+/g, 'N')).toBe(
    'text,error,note,note,sentiment,confidence,sluice_error\ngood,,,,positive,N,\nawful,none,keep,too,negative,N,\n',
  );
  const wrong = await sluice(['batch', file('in.csv')]);
  expect([wrong.code, wrong.out]).toEqual([1, '']);
  expect(wrong.err).toMatch(/no column "text" \(it has id, comment, stars\)/);
});

test('what is wrong with a text is said with its line in the file', async () => {
  writeFileSync(file('long.csv'), `text\n"two\nlines"\n${'x'.repeat(10_001)}\n`);
  expect((await sluice(['batch', file('long.csv')])).err).toMatch(/long\.csv, line 4: .*10000 characters/);
  writeFileSync(file('long.lines.txt'), `fine\n\n${'x'.repeat(10_001)}\n`);
  expect((await sluice(['batch', file('long.lines.txt')])).err).toMatch(/txt, line 3: .*10000 characters/);
});

test('the same file again is the same job; jobs, job and cancel tell of it', async () => {
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
  expect([canceled.code, canceled.err]).toEqual([1, 'sluice: The job has ended already: completed\n']);
  expect((await sluice(['job', 'nobody'])).err).toBe('sluice: Not Found\n');
});

test('Ctrl-C leaves the job running and says how to go on; the same command then finishes it', async () => {
  writeFileSync(
    file('long.txt'),
    Array.from({ length: 6_000 }, (_, i) => `text number ${i} is fine`).join('\n'),
  );
  const { child, done } = start(['batch', file('long.txt'), '-o', file('long.ndjson')]);
  const client = new Sluice({ url, apiKey: key });
  const newest = async () => (await client.jobs().next()).value;
  await until(
    'it runs',
    async () => (await newest())?.total === 6_000 && (await newest())?.status === 'running',
  );
  child.kill('SIGINT');
  const { code, err } = await done;
  const job = await newest();
  expect(code).toBe(130);
  expect(err).toContain(`sluice job ${job?.job_id} --watch`);
  expect(err).toContain(`sluice cancel ${job?.job_id}`);
  const again = await sluice(['batch', file('long.txt'), '-o', file('long.ndjson'), '--json']);
  expect(JSON.parse(again.out)).toMatchObject({ job_id: job?.job_id, status: 'completed', completed: 6_000 });
  expect(lines(readFileSync(file('long.ndjson'), 'utf8')).map(({ index }) => index)).toEqual(
    Array.from({ length: 6_000 }, (_, i) => i),
  );
}, 60_000);

test('the client tells errors by their code, tries again when it is told to, and lets itself be aborted', async () => {
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
