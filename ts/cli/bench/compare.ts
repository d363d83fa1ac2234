// A run against an earlier one of the same machine. Times are compared in units of the peak that was measured around
// them, which is the ratio of the shares of the peak: a clock that was slower in one of the runs cancels.
import { UsageError } from '../errors';
import type { Machine } from '../info';
import type { BenchReport, CaseKey, CaseResult } from './schema';
import { keyText } from './schema';

/** A change is one beyond so many combined deviations, and beyond the least that is worth a word; of the fastest call too. */
const DEVIATIONS = 3;
const LEAST = 0.03;

export type Verdict = 'slower' | 'faster' | 'same';

export interface Change {
  /** As keyText has it. */
  name: string;
  /** Share of the peak, new over old: below 1 is slower. */
  ratio: number;
  /** The same of the fastest calls, which other work on the machine delays last. */
  fastest: number;
  /** How far from 1 the ratio is noise. */
  limit: number;
  verdict: Verdict;
}

export interface Comparison {
  /** When the old run was made. */
  created: string;
  changes: Change[];
  onlyOld: string[];
  onlyNew: string[];
  warnings: string[];
}

type Timed = Pick<CaseResult, 'medianNs' | 'minNs' | 'peakGflops' | 'noise'>;

export function changeOf(before: Timed, after: Timed): Omit<Change, 'name'> {
  const peaks = before.peakGflops / after.peakGflops;
  const ratio = peaks * (before.medianNs / after.medianNs);
  const fastest = peaks * (before.minNs / after.minNs);
  const limit = Math.max(LEAST, DEVIATIONS * Math.hypot(before.noise, after.noise));
  const slower = 1 / ratio > 1 + limit && 1 / fastest > 1 + LEAST;
  const faster = ratio > 1 + limit && fastest > 1 + LEAST;
  return { ratio, fastest, limit, verdict: slower ? 'slower' : faster ? 'faster' : 'same' };
}

export function compare(before: BenchReport, after: BenchReport): Comparison {
  const old = new Map(before.cases.map((one) => [keyText(one), one]));
  const now = new Map(after.cases.map((one) => [keyText(one), one]));
  const changes = [...now].flatMap(([name, one]) => {
    const earlier = old.get(name);
    return earlier ? [{ name, ...changeOf(earlier, one) }] : [];
  });
  return {
    created: before.created,
    changes,
    onlyOld: [...old.keys()].filter((name) => !now.has(name)),
    onlyNew: [...now.keys()].filter((name) => !old.has(name)),
    warnings: warningsOf(before.machine, after.machine),
  };
}

function warningsOf(before: Machine, after: Machine): string[] {
  return (['version', 'node', 'platform', 'libc'] as const)
    .filter((what) => before[what] !== after[what])
    .map((what) => `${what}: ${before[what]} then, ${after[what]} now`);
}

/**
 * Before anything is timed: whether the old report can say something about these cases.
 * @throws UsageError for another processor, and where no case is in both
 */
export function expectComparable(
  file: string,
  before: BenchReport,
  machine: Pick<Machine, 'processor' | 'arch'>,
  cases: readonly CaseKey[],
): void {
  const { processor, arch } = before.machine;
  if (processor !== machine.processor || arch !== machine.arch) {
    throw new UsageError(
      `--compare ${file}: it is of another processor (${processor}, ${arch}; here ${machine.processor}, ${machine.arch})`,
    );
  }
  const known = new Set(before.cases.map(keyText));
  if (cases.some((one) => known.has(keyText(one)))) return;
  const settings = (all: readonly CaseKey[]): string =>
    [...new Set(all.map(({ isa, threads }) => `${isa} on ${threads}`))].join(', ');
  throw new UsageError(
    `--compare ${file}: none of its ${before.cases.length} cases is in this run (it has ${settings(before.cases)} threads; this run ${settings(cases)})`,
  );
}
