import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { type Browser, chromium } from 'playwright-core';

/** The programs by which Chromium is called. */
const PROGRAMS = ['chromium', 'chromium-browser', 'google-chrome'];

/** Starts the Chromium of this machine. @throws Error that says what to install if Chromium is missing */
export async function openBrowser(): Promise<Browser> {
  const folders = (process.env.PATH ?? '').split(delimiter);
  const executablePath = PROGRAMS.flatMap((name) => folders.map((folder) => join(folder, name))).find(
    existsSync,
  );
  if (executablePath === undefined)
    throw new Error('Install Chromium, such as with: apt-get install chromium');
  // In a container, root cannot use Chromium's sandbox.
  return chromium.launch({ executablePath, args: process.getuid?.() === 0 ? ['--no-sandbox'] : [] });
}
