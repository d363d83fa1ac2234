import { writeFileSync } from 'node:fs';
import type { CaseOptions } from './bench/cases';
import { casesFor } from './bench/cases';
import type { Plan } from './bench/collect';
import { collect, keysOf } from './bench/collect';
import { compare, expectComparable } from './bench/compare';
import { readReport } from './bench/schema';
import { reportText } from './bench/text';
import type { Case } from './benchCase';
import { engine } from './engine';
import { UsageError } from './errors';
import { cudaReport, machine } from './info';
import { isasToRun } from './isas';
import { expectWritable, report as print } from './output';
import { pageOf } from './page/page';
import { peerNames } from './peers';
import type { Place } from './place';

export interface RunOptions {
  threads?: number[];
  isa?: string[];
  device?: Place;
  seconds?: number;
  peers?: string[];
  json?: string;
  html?: string;
  compare?: string;
}

/** `rankone bench`; returns the exit code. */
export async function runBench(
  suite: string | undefined,
  options: CaseOptions & RunOptions,
): Promise<number> {
  return benchCases(casesFor(suite, options), options);
}

/** Measures cases, prints a table of them and writes the files that are asked for; returns the exit code. */
export async function benchCases(cases: readonly Case[], options: RunOptions): Promise<number> {
  const plan = planOf(cases, options);
  expectWritable(options.json);
  expectWritable(options.html);
  const keys = keysOf(plan);
  const before = options.compare === undefined ? undefined : readReport(options.compare);
  if (before) expectComparable(options.compare!, before, machine(), keys);

  const report = await collect(plan);
  if (before) report.comparison = compare(before, report);
  print(options.json, report, reportText(report));
  if (options.html !== undefined) writeFileSync(options.html, pageOf(report));
  const slower = report.comparison?.changes.some(({ verdict }) => verdict === 'slower');
  return report.failures.length > 0 || slower ? 1 : 0;
}

function planOf(cases: readonly Case[], options: RunOptions): Plan {
  const { device = 'cpu', isa, threads, peers = [], seconds = 0.5 } = options;
  if (device !== 'cpu') return devicePlan(cases, device, options);
  return {
    cases,
    isas: isa ? isasToRun(isa) : [engine().info().isa],
    threads: [...new Set(threads ?? [engine().getNumThreads()])],
    seconds,
    peers: peers.flatMap((name) => (name === 'all' ? peerNames : name)),
    place: device,
  };
}

function devicePlan(
  cases: readonly Case[],
  device: Place,
  { isa, threads, peers, seconds = 0.5 }: RunOptions,
): Plan {
  for (const [name, given] of Object.entries({ isa, threads, peers }))
    if (given !== undefined)
      throw new UsageError(`--${name}: not together with --device ${device}`);
  const { devices } = engine().info().cuda;
  if (devices.length === 0) throw new UsageError(`--device ${device}: ${cudaReport()}`);
  const place = (device as string) === 'cuda' ? 'cuda:0' : device;
  if (Number(place.replace('cuda:', '')) >= devices.length)
    throw new UsageError(`--device ${device}: there are cuda:0 to cuda:${devices.length - 1}`);
  const own = cases.filter(({ op }) => (op.recurrent || op.lora) && op.isa === undefined);
  if (own.length === 0)
    throw new UsageError(`--device ${device}: ${cases[0].op.name} is computed on the CPU only`);
  return { cases: own, isas: [place], threads: [1], seconds, peers: [], place };
}
