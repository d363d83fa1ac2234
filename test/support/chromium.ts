/** A headless browser for tests of pages. */
import fs from 'node:fs';
import type { Browser } from 'puppeteer-core';

const PLACES = [
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
];

/** RANKONE_CHROMIUM, or where systems put it. */
export const chromium = [process.env.RANKONE_CHROMIUM, ...PLACES].find(
  (file) => file && fs.existsSync(file),
);

/** Whether tests do without one. With RANKONE_REQUIRE_CHROMIUM=1 they fail instead. */
export const withoutChromium = !chromium && process.env.RANKONE_REQUIRE_CHROMIUM !== '1';

/** What to do about a missing one. */
export const WHY =
  'no chromium (apt-get install chromium, or RANKONE_CHROMIUM=path); RANKONE_REQUIRE_CHROMIUM=1 makes that a failure';

/** Milliseconds that it may take for anything, on a machine that has other work. */
export const LIMIT = 600_000;

export async function openBrowser(): Promise<Browser> {
  if (!chromium) throw new Error(WHY);
  const { launch } = await import('puppeteer-core');
  // A sandbox of its own is not to be had as root; the pages are our own.
  const args = ['--no-sandbox', '--disable-gpu'];
  return launch({ executablePath: chromium, args, timeout: LIMIT, protocolTimeout: LIMIT });
}
