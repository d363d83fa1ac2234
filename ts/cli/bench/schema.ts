// What `--json` writes and `--compare` reads: docs/cli.md describes it.
import { readFileSync } from 'node:fs';
import type { Dtype } from '../dtype';
import { UsageError } from '../errors';
import type { Machine } from '../info';
import type { Pass, Shape } from '../operation';
import type { Ceilings, PeakKind } from './ceilings';
import type { Comparison } from './compare';
import type { Ratio } from './rounds';
import type { Summary } from './statistics';

export const SCHEMA = 'rankone-bench';
/** Raised whenever a reader of the last one would misunderstand a file. */
export const VERSION = 1;

export interface BenchReport {
  schema: typeof SCHEMA;
  version: typeof VERSION;
  /** When it was made, ISO 8601. */
  created: string;
  machine: Machine;
  options: { seconds: number; peers: string[] };
  /** Per instruction set and number of threads. */
  ceilings: Ceilings[];
  cases: CaseResult[];
  peers: { name: string; version: string }[];
  skipped: Skip[];
  /** Wrong answers, which were not timed. */
  failures: string[];
  comparison?: Comparison;
}

/** What a result is of. */
export interface CaseKey {
  op: string;
  pass: Pass;
  /** Of recurrences. */
  mode?: string;
  dtype: Dtype;
  shape: Shape;
  isa: string;
  threads: number;
}

/**
 * What a case of the fused LoRA product is compared with. `base`: the product without adapters. `one adapter`: one of the
 * same rank for all rows. `unfused`: the base product and two more for the adapter.
 */
export const relationNames = ['base', 'one adapter', 'unfused'] as const;

/** How long a case takes as a multiple of something else that the engine does, in the same turns. */
export interface Relation extends Ratio {
  to: (typeof relationNames)[number];
  medianNs: number;
}

/** What a case is meant to reach: at most so many times another time, at least such a share, or so many times as fast. */
export interface Targets {
  overBase?: number;
  overOne?: number;
  shareOfPeak?: number;
  shareOfBandwidth?: number;
  /** By peer. */
  peers?: Record<string, number>;
}

export interface CaseResult extends CaseKey, Summary {
  /** The model whose layer it is. */
  model?: string;
  /** Relative, of the time in units of the peak: see docs/cli.md. */
  noise: number;
  nsPerTokenHead?: number;
  /** Minimum arithmetic; absent where there is none. */
  flops?: number;
  gflops?: number;
  /** Which peak the next two are of. */
  peak: PeakKind;
  peakGflops: number;
  shareOfPeak?: number;
  /** Minimum traffic. */
  bytes: number;
  gbPerSecond: number;
  /** The level of the caches that holds it all, and what it gives to such a mixture. */
  level: string;
  levelGbPerSecond: number;
  shareOfBandwidth: number;
  /** Of the check before, as a share of the contract's limit. */
  worstError: number;
  /** Of the fused LoRA product. */
  relations?: Relation[];
  targets?: Targets;
  peers: PeerResult[];
}

export interface PeerResult extends Summary, Ratio {
  name: string;
  /** Relative, against the float64 reference. */
  error: number;
}

/** What a peer did not run, and why: one entry per peer and reason. */
export interface Skip {
  peer: string;
  reason: string;
  /** How many cases; 0 where the peer itself is missing. */
  cases: number;
}

/** Text that is the same for two results of one case, whatever made them. */
export function keyText({ op, pass, mode, dtype, shape, isa, threads }: CaseKey): string {
  const sizes = Object.entries(shape).map(([axis, size]) => `${axis}${size}`);
  return [op, pass, mode ?? '', dtype, ...sizes, isa, `threads ${threads}`]
    .filter((part) => part !== '')
    .join(' ');
}

/** @throws UsageError for a file that is no report of this version */
export function readReport(file: string): BenchReport {
  const text = readFileSync(file, 'utf8');
  let found: Partial<BenchReport> | null;
  try {
    found = JSON.parse(text);
  } catch (error) {
    throw new UsageError(`${file}: no JSON (${(error as Error).message})`);
  }
  if (found?.schema !== SCHEMA) {
    throw new UsageError(`${file}: expected a file that 'rankone bench --json' has written`);
  }
  if (found.version !== VERSION) {
    throw new UsageError(
      `${file}: expected version ${VERSION} of its schema, got ${found.version}`,
    );
  }
  const numbers = ['medianNs', 'minNs', 'peakGflops', 'noise', 'threads'] as const;
  const whole =
    typeof found.machine?.processor === 'string' &&
    Array.isArray(found.cases) &&
    found.cases.every((one) => one?.shape && numbers.every((name) => Number.isFinite(one[name])));
  if (!whole)
    throw new UsageError(`${file}: its machine or some of its cases are missing or damaged`);
  return found as BenchReport;
}
