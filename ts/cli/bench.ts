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
import { machine } from './info';
import { isasToRun } from './isas';
import { expectWritable, report as print } from './output';
import { pageOf } from './page/page';
import { peerNames } from './peers';

export interface RunOptions {
  threads?: number[];
  isa?: string[];
  device?: 'cpu' | 'cuda';
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
  if (options.device === 'cuda') {
    const { reason } = engine().info().cuda;
    throw new UsageError(`--device cuda: ${reason ?? 'expected cpu, which is what this command measures'}`);
  }
  const plan: Plan = {
    cases,
    isas: options.isa ? isasToRun(options.isa) : [engine().info().isa],
    threads: [...new Set(options.threads ?? [engine().getNumThreads()])],
    seconds: options.seconds ?? 0.5,
    peers: (options.peers ?? []).flatMap((name) => (name === 'all' ? peerNames : name)),
  };
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
