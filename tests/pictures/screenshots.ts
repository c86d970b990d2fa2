import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openBrowser } from '../browser.js';
import { Rig, root } from '../harness.js';

/** Takes the pictures of the playground for the README. Run by scripts/pictures.mjs. */
const rig = await Rig.start({ quiet: true });
const browser = await openBrowser();
try {
  const env = { MODEL: '', MODELS_FILE: join(root, 'models.json') };
  const [{ url }, key] = await Promise.all([
    rig.gateway(env),
    rig.key({ name: 'demo', limits: [{ limit: 600, windowSeconds: 60 }] }),
    rig.worker(env),
  ]);
  const texts = readFileSync(join(root, 'bench/sentences.txt'), 'utf8').trim().split('\n');
  for (const [name, colorScheme, viewport, fullPage] of [
    ['playground-light', 'light', { width: 900, height: 1000 }, true],
    ['playground-dark', 'dark', { width: 900, height: 1000 }, true],
    ['playground-phone', 'light', { width: 390, height: 844 }, false],
  ] as const) {
    const context = await browser.newContext({ colorScheme, viewport, deviceScaleFactor: 1 });
    const page = await context.newPage();
    await page.goto(url);
    await page.getByLabel('API key').fill(key);
    await page.getByRole('button', { name: 'Use key' }).click();
    await page.locator('#work').waitFor();
    if (name === 'playground-dark') {
      await page.getByLabel('A file', { exact: true }).check();
      const csv = `review\n${texts
        .slice(0, 400)
        .map((text) => `"${text.replaceAll('"', '""')}"`)
        .join('\n')}\n`;
      await page
        .getByLabel(/Drop a file here/)
        .setInputFiles({ name: 'reviews.csv', mimeType: 'text/csv', buffer: Buffer.from(csv) });
      await page.getByRole('button', { name: 'Run as a job' }).click();
      await page.getByRole('button', { name: 'Download CSV' }).waitFor();
      // The first rows are enough for a picture.
      await page.evaluate(
        'for (const row of [...document.querySelectorAll("tbody tr")].slice(4)) row.remove()',
      );
    } else {
      if (name === 'playground-phone') {
        await page.getByLabel('Model').selectOption('all-minilm-l6-v2');
      }
      await page.getByRole('button', { name: 'Run', exact: true }).click();
      await page.getByText(/Answered in/).waitFor();
      if (name === 'playground-phone') await page.locator('#outcome').scrollIntoViewIfNeeded();
    }
    await page.screenshot({ path: join(root, `docs/images/${name}.png`), fullPage });
    await context.close();
  }
} finally {
  await browser.close();
  await rig.close();
}
process.exit(0);
