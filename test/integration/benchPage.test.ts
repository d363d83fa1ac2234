/** The page of `rankone bench --html`: what it says, read back out of a browser. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Browser, Page } from 'puppeteer-core';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { BenchReport, CaseResult } from '../../ts/cli/bench/schema';
import { chartsOf } from '../../ts/cli/page/charts';
import { escapeHtml, scriptJson } from '../../ts/cli/page/html';
import { pageOf } from '../../ts/cli/page/page';
import { significant } from '../../ts/cli/table';
import { madeCase, madeReport } from '../support/benchReport.ts';
import { chromium, LIMIT, openBrowser, WHY, withoutChromium } from '../support/chromium.ts';

const HOSTILE = '</script><script>window.hit=1</script> "A&B" <!-- \u2028';

/** Two operations, three lengths, one and two threads, on avx2; one of them beside two peers. */
function report(): BenchReport {
  const cases: CaseResult[] = [];
  for (const threads of [1, 2]) {
    for (const [i, T] of [512, 1024, 4096].entries()) {
      for (const [op, ns] of [
        ['gla', 100],
        ['kda', 160],
      ] as const) {
        const nsPerTokenHead = (ns + 3 * i) / (threads === 1 ? 1 : 1.9);
        const one = madeCase({ op, T, threads, nsPerTokenHead });
        if (op === 'gla') one.peers = [peer('onnxruntime', 4 + i), peer('ggml', 9 + i)];
        cases.push(one);
      }
    }
    const shape = { B: 1, T: 1, H: 2, HV: 2, K: 64, V: 64 };
    cases.push(madeCase({ pass: 'decode', T: 1, shape, threads, nsPerTokenHead: 500 }));
  }
  const made = madeReport(cases, HOSTILE);
  made.peers = [
    { name: 'onnxruntime', version: '1.2.3' },
    { name: 'ggml', version: '4.5.6' },
  ];
  made.skipped = [{ peer: 'ggml', reason: 'has no kda', cases: 6 }];
  return made;
}

function peer(name: string, ratio: number) {
  const times = { samples: 9, minNs: 1, medianNs: 2, p25Ns: 1, p75Ns: 3, madNs: 1 };
  return { name, error: 1e-7, ...times, ratio, ratioP25: 0.9 * ratio, ratioP75: 1.1 * ratio };
}

const parts = suite('page: parts');

parts('text and data cannot end their element', () => {
  assert.is(escapeHtml('<a href="x">&</a>'), '&lt;a href=&quot;x&quot;&gt;&amp;&lt;/a&gt;');
  const json = scriptJson({ text: HOSTILE });
  assert.is(/[<\u2028]/.test(json), false);
  assert.equal(JSON.parse(json), { text: HOSTILE });
});

parts('it loads nothing', () => {
  const page = pageOf(report());
  assert.match(page, /Content-Security-Policy" content="default-src 'none'/);
  assert.is(
    /<(link|img|iframe)\b|<script[^>]+src=|sourceMappingURL|@import|url\(/.test(page),
    false,
  );
  assert.match(page, /Chart\.js v\d+[\s\S]+Released under the MIT License/);
});

parts('charts of a report', () => {
  const { rooflines, tokens, threads, bars, peers } = chartsOf(report());
  assert.equal(
    rooflines.map(({ where }) => where),
    ['avx2, 1 thread', 'avx2, 2 threads'],
  );
  const [{ ceilings, passes }] = rooflines;
  assert.equal(
    ceilings.map(({ label }) => label),
    ['f32 peak 100 GF/s', 'L1 400 GB/s', 'L2 250 GB/s', 'memory 40.0 GB/s'],
  );
  // A slanted line ends where it meets the peak: 100 GF/s at 40 GB/s.
  const [from, to] = ceilings[3].points;
  assert.equal([to.x, to.y], [2.5, 100]);
  assert.ok(Math.abs(from.y / from.x - 40) < 1e-9);
  assert.equal(
    passes.map(({ label, points }) => [label, points.length]),
    [
      ['forward', 6],
      ['decode', 1],
    ],
  );
  // 4 K V flops over 5 K floats
  assert.ok(Math.abs(passes[0].points[0].x - (4 * 64 * 64) / (5 * 64 * 4)) < 1e-9);
  assert.equal(
    tokens.map(({ label, where }) => `${label} on ${where}`),
    ['gla forward', 'kda forward']
      .flatMap((name) => [`${name} on avx2, 1 thread`])
      .concat(['gla forward', 'kda forward'].map((name) => `${name} on avx2, 2 threads`)),
  );
  assert.equal(
    tokens[0].points.map(({ x, y }) => [x, y]),
    [
      [512, 100],
      [1024, 103],
      [4096, 106],
    ],
  );
  assert.is(threads.length, 7);
  assert.ok(threads.slice(0, 6).every(({ points }) => Math.abs(points[1].y - 1.9) < 1e-9));
  assert.equal(peers, ['onnxruntime', 'ggml']);
  assert.equal(bars.map(({ label, where, ratios }) => [label, where, ...ratios])[1], [
    'gla forward, T1024',
    'avx2, 1 thread',
    5,
    10,
  ]);
  const rows = { M: 2, N: 3, K: 4 };
  const mixed = [
    madeCase(),
    madeCase({ op: 'matmul', shape: rows }),
    madeCase({ T: 64, dtype: 'bf16' }),
  ];
  for (const one of mixed) one.peers = [peer('onnxruntime', 2)];
  assert.equal(
    chartsOf({ ...madeReport(mixed), peers: [{ name: 'onnxruntime', version: '1' }] }).bars.map(
      (bar) => bar.label,
    ),
    [
      'gla forward f32, B1 T512 H2 HV2 K64 V64',
      'matmul forward f32, M2 N3 K4',
      'gla forward bf16, B1 T64 H2 HV2 K64 V64',
    ],
  );
  const single = chartsOf(madeReport([madeCase()]));
  assert.equal([single.tokens, single.threads, single.bars], [[], [], []]);
});

parts.run();

if (!chromium) console.log(withoutChromium ? `skipped: ${WHY}` : WHY);

const home = fs.mkdtempSync(path.join(os.tmpdir(), 'rankone-page-'));
const file = path.join(home, 'page.html');
const browserTests = suite('page: in a browser');
const test = withoutChromium ? browserTests.skip : browserTests;

let browser: Browser;

browserTests.before(async () => {
  fs.writeFileSync(file, pageOf(report()));
  if (!withoutChromium) browser = await openBrowser();
});

browserTests.after(async () => {
  await browser?.close();
  fs.rmSync(home, { recursive: true, force: true });
});

interface Opened {
  page: Page;
  /** What it said on the console, threw, or asked the network for. */
  said: string[];
}

async function open(width = 1280, scheme = 'light'): Promise<Opened> {
  const page = await browser.newPage();
  const said: string[] = [];
  page.on('console', (message) => said.push(`${message.type()}: ${message.text()}`));
  page.on('pageerror', (error) => said.push(String(error)));
  page.on('request', (request) => {
    if (request.url() !== pathToFileURL(file).href) said.push(`asks for ${request.url()}`);
  });
  await page.setViewport({ width, height: 900 });
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
  await page.goto(pathToFileURL(file).href, { waitUntil: 'load', timeout: LIMIT });
  return { page, said };
}

/** The data of a plot as Chart.js has it. */
function plotted(
  page: Page,
  id: string,
): Promise<{ label: string; data: any[]; hidden: boolean }[]> {
  return page.evaluate((canvas) => {
    const { Chart } = globalThis as any;
    return Chart.getChart(canvas).data.datasets.map(({ label, data, hidden }: any) => {
      return { label, data, hidden: hidden === true };
    });
  }, id);
}

function cells(page: Page, table: string): Promise<string[][]> {
  return page.$$eval(`#${table} tr`, (rows) =>
    rows.map((row) => [...row.children].map((cell) => cell.textContent!)),
  );
}

test('draws what the report says, without a word on the console or to the network', async () => {
  const { page, said } = await open();
  const made = report();
  const roofline = await plotted(page, 'roofline');
  assert.equal(
    roofline.map(({ label }) => label),
    ['forward', 'decode', 'f32 peak 100 GF/s', 'L1 400 GB/s', 'L2 250 GB/s', 'memory 40.0 GB/s'],
  );
  const expected = made.cases
    .filter(({ threads, pass }) => threads === 1 && pass === 'forward')
    .map(({ flops, bytes, gflops }) => [flops! / bytes, gflops]);
  assert.equal(
    roofline[0].data.map(({ x, y }) => [x, y]),
    expected,
  );
  const scaling = await plotted(page, 'over-tokens');
  assert.equal(
    scaling.map(({ label, data }) => [label, ...data.map(({ y }) => y)]),
    [
      ['gla forward', 100, 103, 106],
      ['kda forward', 160, 163, 166],
    ],
  );
  const overThreads = await plotted(page, 'over-threads');
  assert.is(overThreads.length, 8);
  assert.equal(
    overThreads.at(-1)!.data.map(({ x, y }) => [x, y]),
    [
      [1, 1],
      [2, 2],
    ],
  );
  assert.equal(await plotted(page, 'bars'), [
    { label: 'onnxruntime', data: [4, 5, 6], hidden: false },
    { label: 'ggml', data: [9, 10, 11], hidden: false },
  ]);
  // Something is on every canvas.
  const drawn = await page.$$eval('canvas', (all) =>
    all.map((canvas) => {
      const { width, height } = canvas;
      return canvas
        .getContext('2d')!
        .getImageData(0, 0, width, height)
        .data.some((x: number) => x > 0);
    }),
  );
  assert.equal(drawn, [true, true, true, true]);
  assert.is(await page.evaluate(() => (globalThis as any).hit), undefined);
  assert.ok((await page.$eval('header', (e) => e.textContent!)).includes(HOSTILE.trim()));
  const kept = await page.$eval('#report', (e) => JSON.parse(e.textContent!));
  assert.equal(kept, JSON.parse(JSON.stringify(made)));
  assert.equal(said, []);
  await page.close();
});

test('every plotted value stands in a table', async () => {
  const { page } = await open();
  const made = report();
  const [head, ...rows] = await cells(page, 'cases');
  const column = (name: string): string[] => rows.map((row) => row[head.indexOf(name)]);
  assert.is(rows.length, made.cases.length);
  assert.equal(
    column('GF/s'),
    made.cases.map(({ gflops }) => significant(gflops!)),
  );
  assert.equal(
    column('flops/byte'),
    made.cases.map(({ flops, bytes }) => significant(flops! / bytes)),
  );
  const tables = { tokens: 'over-tokens', threads: 'over-threads', peers: 'bars' };
  for (const [table, plot] of Object.entries(tables)) {
    // Beside a ratio stand its quartiles.
    const texts = new Set(
      (await cells(page, table)).flat().map((text) => text.replace(/ \(.*\)$/, '')),
    );
    for (const { label, data } of await plotted(page, plot)) {
      if (label === 'in proportion to threads') continue;
      assert.ok(texts.has(label), label);
      for (const point of data) {
        const value = typeof point === 'number' ? point : point.y;
        assert.ok(texts.has(significant(value)), `${table}: ${value}`);
      }
    }
  }
  const ceilings = (await cells(page, 'ceilings'))[1];
  for (const speed of ['100', '400', '250', '40.0']) assert.ok(ceilings.includes(speed), speed);
  const machine = (await cells(page, 'machine')).map((row) => row.join(' '));
  for (const line of [
    'onnxruntime 1.2.3',
    'node v20.0.0',
    'available baseline, avx2',
    'rankone 0.1.0',
  ])
    assert.ok(machine.includes(line), line);
  const text = await page.$eval('main', (e) => e.textContent!);
  assert.ok(text.includes('ggml: has no kda (6 cases)'));
  await page.close();
});

test('the choices change the plots', async () => {
  const { page } = await open();
  await page.select('#where', 'avx2, 2 threads');
  const [gla] = await plotted(page, 'over-tokens');
  assert.ok(Math.abs(gla.data[0].y - 100 / 1.9) < 1e-9);
  await page.select('#pass', 'decode');
  assert.equal(await plotted(page, 'over-tokens'), []);
  assert.equal(
    (await plotted(page, 'over-threads')).map(({ label }) => label),
    ['gla decode', 'in proportion to threads'],
  );
  assert.equal(
    (await plotted(page, 'roofline')).filter(({ hidden }) => hidden).map(({ label }) => label),
    ['forward'],
  );
  await page.close();
});

test('a heading sorts, by numbers where they are such, with the keyboard too', async () => {
  const { page } = await open();
  const column = async (name: string): Promise<string[]> => {
    const [head, ...rows] = await cells(page, 'cases');
    return rows.map((row) => row[head.indexOf(name)]);
  };
  const button = async (name: string) => {
    for (const one of await page.$$('#cases th button'))
      if ((await one.evaluate((e) => e.textContent)) === name) return one;
    throw new Error(`no heading ${name}`);
  };
  const sorted = (): Promise<(string | null)[]> =>
    page.$$eval('#cases thead th', (all) =>
      all.map((th) => th.getAttribute('aria-sort')).filter(Boolean),
    );
  const values = report().cases.map(({ nsPerTokenHead }) => nsPerTokenHead!);
  const inOrder = (sign: number) =>
    [...values].sort((a, b) => sign * (a - b)).map((x) => significant(x));

  await (await button('ns/token/head')).click();
  assert.equal(await column('ns/token/head'), inOrder(-1));
  assert.equal(await sorted(), ['descending']);
  await (await button('ns/token/head')).focus();
  await page.keyboard.press('Enter');
  assert.equal(await column('ns/token/head'), inOrder(1));
  assert.equal(await sorted(), ['ascending']);
  await (await button('pass')).click();
  assert.equal([...new Set(await column('pass'))], ['decode', 'forward']);
  assert.equal(await sorted(), ['ascending']);
  await page.close();
});

/** Contrasts of everything that is written or drawn with the page, as WCAG has them. */
async function contrasts(page: Page): Promise<number[]> {
  const names = ['page', 'text', 'quiet', 'accent', 'bad', 'good', 'series'];
  const colors = await page.evaluate((wanted) => {
    const { document, getComputedStyle } = globalThis as any;
    const style = getComputedStyle(document.documentElement);
    return wanted.map((name) => style.getPropertyValue(`--${name}`) as string);
  }, names);
  const [ground, ...rest] = colors.flatMap((text) => text.trim().split(/\s+/)).map(luminance);
  return rest.map((x) => (Math.max(x, ground) + 0.05) / (Math.min(x, ground) + 0.05));
}

function luminance(color: string): number {
  assert.match(color, /^#[0-9a-f]{6}$/);
  const [r, g, b] = [1, 3, 5]
    .map((i) => Number.parseInt(color.slice(i, i + 2), 16) / 255)
    .map((x) => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

test('readable in light, in dark and on paper', async () => {
  const colors: string[] = [];
  for (const scheme of ['light', 'dark']) {
    const { page, said } = await open(1280, scheme);
    for (const contrast of await contrasts(page))
      assert.ok(contrast >= 4.5, `${scheme}: ${contrast}`);
    const colorOf = (): Promise<string> =>
      page.evaluate(
        () => (globalThis as any).Chart.getChart('roofline').data.datasets[0].backgroundColor,
      );
    colors.push(await colorOf());
    if (scheme === 'dark') {
      await page.evaluate(() => (globalThis as any).dispatchEvent(new Event('beforeprint')));
      assert.is(await colorOf(), colors[0], 'paper is white');
      await page.evaluate(() => (globalThis as any).dispatchEvent(new Event('afterprint')));
      assert.is(await colorOf(), colors[1]);
      assert.ok((await page.pdf({ format: 'A4' })).length > 10_000);
    }
    assert.equal(said, []);
    await page.close();
  }
  assert.is.not(colors[0], colors[1]);
});

test('narrow screens scroll tables, not the page; plots and tables have names', async () => {
  const { page, said } = await open(360);
  assert.ok(
    (await page.evaluate(() => (globalThis as any).document.documentElement.scrollWidth)) <= 360,
  );
  const unnamed = await page.$$eval('canvas, table, select, .scroll', (all) =>
    all
      .filter((element) => {
        const by = element.getAttribute('aria-labelledby');
        const name =
          element.getAttribute('aria-label') ??
          (by && (globalThis as any).document.getElementById(by)?.textContent) ??
          element.querySelector('caption')?.textContent ??
          element.closest('label')?.textContent;
        return !name?.trim();
      })
      .map((element) => element.outerHTML.slice(0, 80)),
  );
  assert.equal(unnamed, []);
  const broken = await page.$$eval('a[href^="#"]', (all) =>
    all
      .map((a) => a.getAttribute('href')!)
      .filter((href) => !(globalThis as any).document.querySelector(href)),
  );
  assert.equal(broken, []);
  assert.equal(said, []);
  await page.close();
});

test('a report of one case, and of none', async () => {
  const only = path.join(home, 'only.html');
  for (const made of [madeReport([madeCase()]), madeReport([])]) {
    fs.writeFileSync(
      only,
      pageOf({ ...made, failures: made.cases.length ? [] : ['gla is wrong'] }),
    );
    const page = await browser.newPage();
    const said: string[] = [];
    page.on('console', (message) => said.push(message.text()));
    page.on('pageerror', (error) => said.push(String(error)));
    await page.goto(pathToFileURL(only).href, { waitUntil: 'load', timeout: LIMIT });
    assert.equal(said, []);
    assert.is((await page.$$('#cases tbody tr')).length, made.cases.length);
    assert.is((await page.$('#over-tokens')) === null, true);
    await page.close();
  }
});

browserTests.run();
