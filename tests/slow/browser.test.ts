import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { AxeBuilder } from '@axe-core/playwright';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { openBrowser } from '../browser.js';
import { ClientRig, folder as clientsFolder } from '../clients/rig.js';
import { root, until } from '../harness.js';

let rig: ClientRig;
let browser: Browser;
/** Serves the example page from another origin. */
let pages: Server;
let pageUrl: string;
beforeAll(async () => {
  pages = createServer((_request, response) =>
    response
      .writeHead(200, { 'Content-Type': 'text/html' })
      .end(readFileSync(join(root, 'examples/page.html'))),
  );
  pages.listen(0, '127.0.0.1');
  await once(pages, 'listening');
  pageUrl = `http://127.0.0.1:${(pages.address() as AddressInfo).port}`;
  [rig, browser] = await Promise.all([ClientRig.start({ CORS_ORIGINS: pageUrl }), openBrowser()]);
}, 120_000);
afterAll(async () => {
  await browser?.close();
  pages?.close();
  await rig?.close();
});

let context: BrowserContext;
let page: Page;
/** What the browser reported: errors of scripts, and violations of the content security policy. */
let complaints: string[];
async function open(options: Parameters<Browser['newContext']>[0] = {}): Promise<void> {
  await context?.close();
  context = await browser.newContext({ permissions: ['clipboard-read', 'clipboard-write'], ...options });
  page = await context.newPage();
  complaints = [];
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  await page.goto(rig.url);
}
beforeEach(() => open());
afterEach(() => context.close());

async function useKey(key = rig.key): Promise<void> {
  await page.getByLabel('API key').fill(key);
  await page.getByRole('button', { name: 'Use key' }).click();
}

async function choose(model: string): Promise<void> {
  await useKey();
  await page.getByLabel('Model').selectOption(model);
}

const outcome = () => page.locator('#outcome');
const run = () => page.getByRole('button', { name: 'Run', exact: true }).click();
const answered = () => page.getByText(/Answered in \d+ ms/).waitFor();

/** Violations of WCAG 2.2 at level AA, and of axe's best practices. */
async function violations(): Promise<string[]> {
  const { violations: found } = await new AxeBuilder({ page }).analyze();
  return found.flatMap(({ id, nodes }) => nodes.map(({ html }) => `${id}: ${html}`));
}

const PHONE = { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true };

describe('one input', () => {
  test('shows the labels of a classifier as bars, the remaining limits, and code that returns the same output', async () => {
    await choose('bert-labels');
    const text = 'It\'s "fine" \\ 不错 👍 <img src=x onerror=alert(1)>';
    await page.getByLabel('Text', { exact: true }).fill(text);
    const before = await page.locator('#allowance').textContent();
    await run();
    await answered();
    await until(
      'the allowance is read again',
      async () => (await page.locator('#allowance').textContent()) !== before,
    );
    const output = await rig.outputsOf('bert-labels', text);
    const [[best]] = output;
    await expect(outcome().locator('dt').first().textContent()).resolves.toBe(best.label);
    await expect(outcome().locator('dd.value').first().textContent()).resolves.toBe(
      `${(100 * best.score).toFixed(1)} %`,
    );
    for (const language of ['curl', 'TypeScript']) {
      await page.getByLabel(language, { exact: true }).check();
      await page.getByRole('button', { name: 'Copy' }).click();
      await page.getByText('Copied').waitFor();
      const code: string = await page.evaluate('navigator.clipboard.readText()');
      expect(code).not.toContain(rig.key);
      expect(printed(language, code)).toEqual(output);
    }
    expect(complaints).toEqual([]);
  });

  test('keeps the model, the input and the outcome when the key is used again, and nothing of another key', async () => {
    await choose('bert-entities');
    await page.getByLabel('Text', { exact: true }).fill('Ada lives in Lima');
    await run();
    await answered();
    // The list of models is read, and its options are replaced.
    await page.evaluate("document.querySelector('#model option').id = 'old'");
    await useKey();
    await page.locator('#old').waitFor({ state: 'detached' });
    await expect(page.getByLabel('Model').inputValue()).resolves.toBe('bert-entities');
    await expect(page.getByLabel('Text', { exact: true }).inputValue()).resolves.toBe('Ada lives in Lima');
    await expect(outcome().isVisible()).resolves.toBe(true);
    await useKey(await rig.rig.key());
    await outcome().waitFor({ state: 'hidden' });
    await expect(page.getByLabel('Text', { exact: true }).inputValue()).resolves.not.toBe(
      'Ada lives in Lima',
    );
  });

  test('shows a bar for each label that was given to a zero-shot classifier', async () => {
    await choose('roberta-nli');
    await page.getByRole('textbox', { name: 'Candidate labels' }).fill('one, two ,three');
    await run();
    await answered();
    expect((await outcome().locator('dt').allTextContents()).sort()).toEqual(['one', 'three', 'two']);
  });

  test('marks entities at the right characters', async () => {
    await choose('bert-entities');
    const text = '👍 Ágnes lives in Zürich';
    await page.getByLabel('Text', { exact: true }).fill(text);
    await run();
    await answered();
    const entities = await rig.outputsOf('bert-entities', text);
    expect(entities.length).toBeGreaterThan(0);
    const characters = Array.from(text);
    const marks = await outcome()
      .locator('mark')
      .evaluateAll((found) => found.map((mark) => mark.firstChild?.textContent));
    expect(marks).toEqual(
      entities.map(({ start, end }: { start: number; end: number }) => characters.slice(start, end).join('')),
    );
    // The marks add only their kinds to the text.
    const rest = await outcome()
      .locator('p')
      .evaluate((paragraph) => {
        for (const kind of paragraph.querySelectorAll('small')) kind.remove();
        return paragraph.textContent;
      });
    expect(rest).toBe(text);
  });

  test('shows ranked texts, and the nearest sentences, in their order', async () => {
    await choose('roberta-rank');
    await run();
    await answered();
    const texts = ['Berlin is in Germany.', 'Paris is the capital of France.', 'Bread is baked.'];
    const ranks = await rig.outputsOf('roberta-rank', { query: 'What is the capital of France?', texts });
    const shown = await outcome().locator('li').allTextContents();
    expect(shown.map((line) => line.replace(/ score .*/, ''))).toEqual(
      ranks.map(({ index }: { index: number }) => texts[index]),
    );

    await page.getByLabel('Model').selectOption('bert-mean');
    await page.getByLabel('Text', { exact: true }).fill('same words');
    await page.getByLabel(/Sentences to compare/).fill('something else entirely\nsame words');
    await run();
    await page.getByText('Each text has a vector').waitFor();
    expect(await outcome().locator('li').first().textContent()).toMatch(/^same words similarity 1\.0000$/);
    expect(complaints).toEqual([]);
  });

  test('errors are shown with their reason', async () => {
    await useKey('sk_wrong_key_of_a_user');
    await page.getByText('Invalid API key').waitFor();
    expect(await page.locator('#work').isVisible()).toBe(false);
    await choose('bert-labels');
    await page.getByLabel('Text', { exact: true }).fill('   ');
    await run();
    await page.getByText(/^Status 422, request /).waitFor();
    expect(await outcome().textContent()).toContain('/inputs');
    // Refusals are what the browser reports, and nothing else.
    expect(complaints.every((line) => /status of (403|422)/.test(line))).toBe(true);
  });
});

/** Where copied TypeScript finds the client. */
const copiedFile = join(clientsFolder, '.run/copied.mts');

/** Runs copied code; returns what it printed, as JSON. */
function printed(language: string, code: string): unknown {
  const env = { PATH: process.env.PATH, SLUICE_API_KEY: rig.key };
  const folder = rig.rig.folder;
  const [command, args] =
    language === 'curl'
      ? ['bash', ['-c', code]]
      : ['node', [join(root, 'node_modules/tsx/dist/cli.mjs'), copiedFile]];
  if (language === 'TypeScript') {
    mkdirSync(dirname(copiedFile), { recursive: true });
    writeFileSync(copiedFile, code.replace('console.log(output)', 'console.log(JSON.stringify(output))'));
  }
  const { stdout, stderr, status } = spawnSync(String(command), args, {
    cwd: folder,
    env,
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`${language} ended with ${status}:\n${code}\n${stderr}`);
  return JSON.parse(stdout);
}

describe('a file', () => {
  const rows = Array.from({ length: 250 }, (_, i) => ({
    id: String(i),
    // A cell with all that a CSV quotes, and some without a text.
    text: i === 7 ? '' : i === 8 ? 'a "quoted", text\nof two lines' : `text number ${i}`,
  }));
  const quoted = (cell: string) => `"${cell.replaceAll('"', '""')}"`;
  const csv = ['id,text', ...rows.map(({ id, text }) => `${id},${quoted(text)}`)].join('\r\n');

  const upload = (name: string, content: string | Buffer) =>
    page
      .getByLabel(/Drop a file here/)
      .setInputFiles({ name, mimeType: 'text/plain', buffer: Buffer.from(content) });

  async function downloaded(button: string): Promise<string> {
    const [download] = await Promise.all([
      page.waitForEvent('download'),
      page.getByRole('button', { name: button }).click(),
    ]);
    return readFileSync(await download.path(), 'utf8');
  }

  test('shows the progress and a chart of a CSV file, and has every row exactly once in the download', async () => {
    await choose('bert-labels');
    await page.getByLabel('A file', { exact: true }).check();
    await upload('reviews.csv', csv);
    await page.getByText('reviews.csv: texts: 249; rows that cannot be sent: 1').waitFor();
    await page.getByRole('button', { name: 'Run as a job' }).click();
    await page.getByText(/^completed: 249 of 249 texts/).waitFor();
    await page.getByRole('button', { name: 'Download NDJSON' }).waitFor();
    expect(await page.evaluate('document.querySelector("progress").value')).toBe(1);
    const counts = (await outcome().locator('dd.value').allTextContents()).map((value) =>
      Number.parseInt(value, 10),
    );
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(250);
    expect(await outcome().locator('tbody tr').count()).toBe(100);

    const lines = (await downloaded('Download NDJSON'))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines.map(({ index }) => index)).toEqual(rows.map((_, i) => i));
    expect(lines[7].error.code).toBe('validation_failed');
    expect(lines[8].text).toBe(rows[8]?.text);
    const [[best]] = await rig.outputsOf('bert-labels', 'text number 100');
    expect(lines[100].output[0].label).toBe(best.label);
    const saved = await downloaded('Download CSV');
    expect(saved.split('\n')[0]?.trim()).toBe('id,text,sentiment,confidence,error');
    expect(saved).toContain('"a ""quoted"", text\nof two lines"');
    expect(saved).toContain('The text is empty or only white space');
    expect(complaints).toEqual([]);
  });

  test('reads a text file without a header and a chosen column, and reports unreadable files', async () => {
    await choose('bert-labels');
    await page.getByLabel('A file', { exact: true }).check();
    await upload('lines.txt', 'one\r\ntwo, with a comma\r\n');
    await page.getByText('lines.txt: texts: 2.').waitFor();
    await upload('other.tsv', 'comment\ttext\nhello\t\n');
    await page.getByText('other.tsv: texts: 0; rows').waitFor();
    expect(await page.getByRole('button', { name: 'Run as a job' }).isDisabled()).toBe(true);
    await page.getByLabel('Column with the texts').selectOption({ label: 'comment' });
    await page.getByText('other.tsv: texts: 1.').waitFor();
    await upload('latin1.txt', Buffer.from([0x47, 0x72, 0xfc, 0xdf, 0x65]));
    await page.getByText('not valid UTF-8').waitFor();
    await upload('utf16.txt', Buffer.from('\ufeffGrüße\n', 'utf16le'));
    await page.getByText('utf16.txt: texts: 1.').waitFor();
    await upload('a.pdf', '%PDF');
    await page.getByText('Choose a .txt, .csv or .tsv file').waitFor();
    await page.getByLabel('Model').selectOption('roberta-rank');
    await page.getByText('This model does not take plain texts').waitFor();
  });

  test('a job is followed again after a reload, and a file that cannot be read is not replaced by an earlier one', async () => {
    await choose('bert-labels');
    await page.getByLabel('A file', { exact: true }).check();
    await upload('many.txt', Array.from({ length: 60_000 }, (_, i) => `many words in text ${i}`).join('\n'));
    const button = page.getByRole('button', { name: 'Run as a job' });
    await button.click();
    await page.getByText(/^(queued|running): \d+ of 60000 texts/).waitFor();
    await page.reload();
    await page.getByText(/^running: \d+ of 60000 texts.* Job [0-9a-f-]{36}$/).waitFor();
    await page.getByRole('button', { name: 'Cancel the job' }).click();
    await page.getByText(/^canceled: /).waitFor();
    await page.getByRole('button', { name: 'Download CSV' }).waitFor();

    await page.getByLabel('A file', { exact: true }).check();
    await upload('good.txt', 'one\n');
    await page.getByText('good.txt: texts: 1.').waitFor();
    await upload('quote.csv', 'text\n"never closed\n');
    await page.getByText('a double quote that is never closed').waitFor();
    expect(await button.isDisabled()).toBe(true);
    expect(complaints).toEqual([]);
  });

  test('a key that no header field can carry is refused by the page', async () => {
    await useKey('ключ');
    await page.getByText('This is not a key').waitFor();
  });

  test('a job can be canceled', async () => {
    await choose('bert-labels');
    await page.getByLabel('A file', { exact: true }).check();
    await upload('many.txt', Array.from({ length: 60_000 }, (_, i) => `many words in text ${i}`).join('\n'));
    await page.getByText('many.txt: texts: 60000.').waitFor();
    await page.getByRole('button', { name: 'Run as a job' }).click();
    await page.getByRole('button', { name: 'Cancel the job' }).click();
    await page.getByText(/^canceled: /).waitFor();
  });
});

describe('the page', () => {
  test('works with the keyboard alone', async () => {
    await page.keyboard.press('Tab');
    await expect(page.evaluate('document.activeElement.textContent')).resolves.toBe('Skip to the form');
    const focusOn = async (condition: string) => {
      for (let i = 0; i < 30; i++) {
        if (await page.evaluate(condition)) return;
        await page.keyboard.press('Tab');
      }
      throw new Error(`Tab does not reach ${condition}`);
    };
    await focusOn('document.activeElement.id === "key"');
    await page.keyboard.type(rig.key);
    await page.keyboard.press('Enter');
    await page.locator('#work').waitFor();
    await focusOn('document.activeElement.id === "model"');
    await page.keyboard.press('ArrowDown');
    await focusOn('document.activeElement.name === "mode"');
    await page.keyboard.press('ArrowRight');
    await expect(page.locator('#file-form').isVisible()).resolves.toBe(true);
    await page.keyboard.press('ArrowLeft');
    await focusOn('document.activeElement.textContent === "Run"');
    await page.keyboard.press('Enter');
    await answered();
    // A screen reader continues where the outcome is.
    await expect(page.evaluate('document.activeElement.id')).resolves.toBe('outcome-heading');
    await focusOn('document.activeElement.name === "language"');
    await page.keyboard.press('ArrowRight');
    await expect(page.locator('#code').textContent()).resolves.toContain("from '@sluice/client'");
  });

  test.each([
    ['light', {}],
    ['dark', PHONE],
  ] as const)('has no accessibility violations in %s colors, %j', async (colorScheme, device) => {
    await open({ colorScheme, ...device });
    expect(await violations()).toEqual([]);
    for (const model of ['bert-labels', 'bert-entities', 'bert-mean', 'roberta-rank', 'roberta-nli']) {
      await choose(model);
      await run();
      await answered();
      expect(await violations()).toEqual([]);
    }
    await choose('bert-labels');
    await page.getByLabel('A file', { exact: true }).check();
    await page
      .getByLabel(/Drop a file here/)
      .setInputFiles({ name: 'a.csv', mimeType: 'text/csv', buffer: Buffer.from('text,id\none,1\ntwo,2\n') });
    await page.getByRole('button', { name: 'Run as a job' }).click();
    await page.getByText(/^completed/).waitFor();
    await page.getByRole('button', { name: 'Download CSV' }).waitFor();
    expect(await violations()).toEqual([]);
    await useKey('sk_wrong_key_of_a_user');
    await page.getByText('Invalid API key').waitFor();
    expect(await violations()).toEqual([]);
    // Nothing is wider than the screen.
    const [width, screen] = (await page.evaluate('[document.documentElement.scrollWidth, innerWidth]')) as [
      number,
      number,
    ];
    expect(width).toBeLessThanOrEqual(screen);
  });

  test('stores the key in this tab only', async () => {
    await useKey();
    await page.locator('#work').waitFor();
    await page.reload();
    await page.locator('#work').waitFor();
    expect(
      await page.evaluate('JSON.stringify(localStorage) + document.cookie + location.href'),
    ).not.toContain(rig.key);
    const other = await context.newPage();
    await other.goto(rig.url);
    expect(await other.getByLabel('API key').inputValue()).toBe('');
  });

  test('has a strict content security policy and does not violate it', async () => {
    const response = await fetch(rig.url);
    const policy = response.headers.get('content-security-policy') ?? '';
    expect(policy).toContain("default-src 'none'");
    expect(policy).not.toMatch(/unsafe|\*|data:/);
    await useKey();
    await page.locator('#work').waitFor();
    expect(complaints).toEqual([]);
  });
});

test('the example page of another origin calls the API', async () => {
  await page.goto(`${pageUrl}/page.html`);
  await page.getByLabel('Address of Sluice').fill(rig.url);
  await page.getByLabel('API key').fill(rig.key);
  await page.getByRole('button', { name: 'Analyze' }).click();
  await page.getByText(/^\w+ \(\d+\.\d %\)$/).waitFor();
  await page.getByLabel('API key').fill('wrong');
  await page.getByRole('button', { name: 'Analyze' }).click();
  await page.getByText('403: Invalid API key').waitFor();
});
