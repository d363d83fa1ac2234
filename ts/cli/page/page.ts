// `--html`: one page that needs nothing but a browser. Its plots are drawn by Chart.js, which is inside.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import type { BenchReport } from '../bench/schema';
import { skipText } from '../bench/skipped';
import { machineLines } from '../info';
import { allPasses } from '../operation';
import type { Charts } from './charts';
import { chartsOf, whereText } from './charts';
import type { Table } from './html';
import { escapeHtml, scriptJson, tableHtml } from './html';
import {
  casesTable,
  ceilingsTable,
  comparisonTable,
  peersTable,
  relationsTable,
  scalingTables,
} from './tables';

export function pageOf(report: BenchReport): string {
  const charts = chartsOf(report);
  const title = `rankone bench, ${report.machine.processor}`;
  // Inline parts only: the page can neither load nor send anything.
  const policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="color-scheme" content="light dark">
<title>${escapeHtml(title)}</title>
<style>
${asset('style.css')}</style>
</head>
<body>
<main>
${sections(report, charts).join('\n')}
</main>
<script type="application/json" id="report">${scriptJson(report)}</script>
<script type="application/json" id="charts">${scriptJson(charts)}</script>
<script>
${chartLibrary()}
</script>
<script type="module">
${asset('client.mjs')}</script>
</body>
</html>
`;
}

function asset(name: string): string {
  return readFileSync(path.join(__dirname, name), 'utf8');
}

/** In the package a copy lies beside this file, which the build has put there. */
function chartLibrary(): string {
  const name = 'chart.umd.min.js';
  const installed = (): string => path.join(path.dirname(require.resolve('chart.js')), name);
  const file = path.extname(__filename) === '.ts' ? installed() : path.join(__dirname, name);
  return readFileSync(file, 'utf8').replace(/^\/\/# sourceMappingURL=.*$/m, '');
}

function sections(report: BenchReport, charts: Charts): string[] {
  const { cases } = report;
  const { tokens, threads, bars } = charts;
  const scaling = scalingTables(charts);
  const parts: (string | false)[] = [
    head(report),
    report.failures.length > 0 && section('Wrong answers, not timed', [list(report.failures)]),
    cases.length > 0 && choices(charts),
    cases.length > 0 &&
      section('Roofline', [
        plot('roofline', 'Flop rate over flops per byte, under the measured ceilings', 'cases'),
        '<p>Flops and bytes are the least that a case needs, so that a point shows how near the machine gets to the limit on useful work. The line of the memory that holds a case bounds it where it slants; beyond, the peak of arithmetic does.</p>',
      ]),
    tokens.length > 0 &&
      section('Scaling over tokens', [
        plot('over-tokens', 'Nanoseconds per token and head over tokens', 'tokens'),
        tableHtml(scaling.tokens),
      ]),
    threads.length > 0 &&
      section('Scaling over threads', [
        plot('over-threads', 'Speed over that on the fewest threads', 'threads'),
        tableHtml(scaling.threads),
      ]),
    bars.length > 0 &&
      section('Against other libraries', [
        plot('bars', 'How many times as long as rankone', 'peers'),
        tableHtml(peersTable(report, charts)),
      ]),
    cases.some(({ relations }) => relations) &&
      section('What adapters cost', [tableHtml(relationsTable(report))]),
    report.skipped.length > 0 &&
      section('What other libraries did not run', [
        list(report.skipped.map((skip) => skipText(skip))),
      ]),
    Boolean(report.comparison) && section('Against an earlier run', comparison(report)),
    section('Cases', [cases.length > 0 ? tableHtml(casesTable(report)) : '<p>None was timed.</p>']),
    section('Machine', [machine(report), tableHtml(ceilingsTable(report))]),
    section('Method', method(report)),
  ];
  return parts.filter((part) => part !== false);
}

/** What the plots show: one instruction set on one number of threads, one pass or all. */
function choices({ rooflines, tokens, bars }: Charts): string {
  const ofAll = [...rooflines.flatMap((one) => one.passes), ...tokens, ...bars];
  const among = allPasses.filter((pass) =>
    ofAll.some((one) => ('pass' in one ? one.pass : one.label) === pass),
  );
  const options = (values: string[]): string =>
    values.map((value) => `<option>${escapeHtml(value)}</option>`).join('');
  return `<p class="choices">
<label>Plots of <select id="where">${options(rooflines.map(({ where }) => where))}</select></label>
<label>and <select id="pass">${options(['all passes', ...among])}</select></label>
</p>`;
}

function list(items: string[]): string {
  return `<ul>${items.map((item) => `<li>${escapeHtml(item)}</li>`).join('')}</ul>`;
}

function section(title: string, parts: string[]): string {
  return `<section>\n<h2>${title}</h2>\n${parts.join('\n')}\n</section>`;
}

function plot(id: string, label: string, table: string): string {
  return `<figure><div class="plot" id="${id}-plot"><canvas id="${id}" role="img" aria-label="${label}; the values stand in the table below"></canvas></div>
<figcaption>${label}. The values: <a href="#${table}">table</a>.</figcaption></figure>`;
}

function head({ machine, created, cases, ceilings, options }: BenchReport): string {
  const counted = `${cases.length} case${cases.length === 1 ? '' : 's'}`;
  const where = ceilings.map(whereText).join('; ');
  const peers = options.peers.length > 0 ? `, beside ${options.peers.join(', ')}` : '';
  return `<header>
<h1>rankone bench</h1>
<p>${escapeHtml(machine.processor)}, ${escapeHtml(created.slice(0, 16).replace('T', ' '))} UTC, rankone ${escapeHtml(machine.version)}</p>
<p>${escapeHtml(`${counted}${peers}, on ${where}`)}</p>
</header>`;
}

function comparison(report: BenchReport): string[] {
  const { created, onlyOld, onlyNew, warnings } = report.comparison!;
  const lines = [
    ...warnings,
    ...onlyOld.map((name) => `${name}: only in the old run`),
    ...onlyNew.map((name) => `${name}: only in this run`),
  ];
  return [
    `<p>The earlier run is of ${escapeHtml(created)}.</p>`,
    tableHtml(comparisonTable(report)),
    ...lines.map((line) => `<p>${escapeHtml(line)}</p>`),
  ];
}

function machine({ machine, peers }: BenchReport): string {
  const lines = [...machineLines(machine), ...peers.map(({ name, version }) => [name, version])];
  const table: Table = {
    id: 'machine',
    caption: 'The machine',
    rows: lines.map((line) => line.map((text) => ({ text }))),
  };
  return tableHtml(table);
}

function method({ options: { seconds } }: BenchReport): string[] {
  return [
    'Before anything is timed, its answer to a small problem of the same widths is held against a float64 reference; so is that of every other library, whose limit is 1e-4 in float32. What is wrong is not timed.',
    `Times are of single synchronous calls, inputs and results in place: medians with quartiles, about ${seconds} s per case and contender in up to seven rounds. In every round rankone and the other libraries take turns in an order of its own, so that a machine that is slower for a while is so for all of them.`,
    'The peak is that of multiply-adds in registers (of bf16 dot products where the arithmetic is bf16), on as many threads, measured between the rounds of the very case; the best of these counts. Bandwidths are measured before and after all cases, on sets that fill half of each cache, and on memory.',
    'Noise is how far times in units of the peak scatter: the relative median absolute deviation of single calls, or of the medians of the rounds each against the peak beside it, whichever is larger. A comparison calls a case slower or faster when its share of the peak has changed by more than 3 % and more than three combined deviations of the two runs, and that of its fastest call by more than 3 % too.',
  ].map((text) => `<p>${escapeHtml(text)}</p>`);
}
