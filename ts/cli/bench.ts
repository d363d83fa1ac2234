import type { Case, Measurement, Mode } from './benchCase';
import { CheckError, measure } from './benchCase';
import type { Dtype } from './dtype';
import { engine } from './engine';
import { UsageError } from './errors';
import { headline, machine } from './info';
import { chooseIsa } from './isas';
import type { Operation, Pass, Shape } from './operation';
import { shapeText } from './operation';
import { findOperations, operations } from './ops';
import { report } from './output';
import { Progress } from './progress';
import { duration, significant, table } from './table';

export interface BenchOptions {
  op?: string[];
  shape?: number[];
  dtype?: Dtype;
  threads?: number;
  isa?: string;
  mode?: Mode;
  pass?: Pass[];
  seconds?: number;
  json?: string;
}

/** Operations whose minimum arithmetic is known. */
export const timedOperations: readonly Operation[] = operations.filter((op) => op.flops);

const DEFAULT_OPS = [
  'linearAttention',
  'gla',
  'mamba2',
  'deltaNet',
  'gatedDeltaNet',
  'kda',
  'matmul',
];
const DEFAULT_SHAPES: Record<string, number[]> = {
  'B,T,H,HV,K,V': [1, 512, 8, 8, 64, 64],
  'M,N,K': [512, 1024, 1024],
};

/** `rankone bench`; returns the exit code. */
export async function runBench(options: BenchOptions): Promise<number> {
  const cases = casesOf(options);
  chooseIsa(options.isa);
  if (options.threads !== undefined) engine().setNumThreads(options.threads);
  return reportCases(cases, options.seconds ?? 0.5, options.json);
}

/** Measures the cases and prints a table of them; returns the exit code. */
export async function reportCases(
  cases: readonly Case[],
  seconds: number,
  json?: string,
): Promise<number> {
  const { rows, failures } = await measureAll(cases, seconds);
  const dtypes = [...new Set(cases.map(({ dtype }) => dtype))];
  const text = [
    `${headline(machine())}, ${dtypes.join(', ')}`,
    'Minimum flops. Peak: multiply-adds in registers on the same threads, measured in between.',
    '',
    table([HEAD, ...rows.map(lineOf)], 4),
    ...failures.map((failure) => `FAIL ${failure}`),
  ];
  report(json, { machine: machine(), cases: rows.map(toJson), failures }, text.join('\n'));
  return failures.length === 0 ? 0 : 1;
}

export type MeasuredCase = Case & Measurement;

/** `forward gatedDeltaNet B1 T512 ...` */
export function nameOf({ op, pass, shape }: Case): string {
  return `${pass} ${op.name} ${shapeText(shape)}`;
}

/** Measures one case after the other; what fails its check is not timed. */
async function measureAll(
  cases: readonly Case[],
  seconds: number,
): Promise<{ rows: MeasuredCase[]; failures: string[] }> {
  const progress = new Progress(cases.length);
  const rows: MeasuredCase[] = [];
  const failures: string[] = [];
  try {
    for (const one of cases) {
      progress.label(nameOf(one));
      try {
        rows.push({ ...one, ...(await measure(one, seconds)) });
      } catch (error) {
        if (!(error instanceof CheckError)) throw error;
        failures.push(error.message);
      }
      progress.step();
    }
  } finally {
    progress.close();
  }
  return { rows, failures };
}

/** The cases that the options ask for. @throws UsageError for what does not go together */
export function casesOf({ op, shape, pass, dtype = 'f32', mode = 'auto' }: BenchOptions): Case[] {
  const chosen = op
    ? findOperations(op, timedOperations)
    : findOperations(DEFAULT_OPS, timedOperations).filter(
        ({ axes }) => !shape || axes.length === shape.length,
      );
  if (chosen.length === 0) {
    const legal = Object.keys(DEFAULT_SHAPES).join(' or ');
    throw new UsageError(`--shape ${shape}: expected ${legal}, got ${shape!.length} numbers`);
  }
  return chosen.flatMap((one) => {
    for (const wanted of pass ?? []) {
      // Asked for by name, it must be there; among several operations it may be missing in some.
      if (one.passes.includes(wanted) || (!op && pass!.length > 0)) continue;
      throw new UsageError(`--pass ${wanted}: ${one.name} has ${one.passes.join(' and ')} only`);
    }
    const sizes = shapeOf(one, shape);
    return one.passes
      .filter((own) => !pass || pass.includes(own))
      .map((own): Case => ({ op: one, pass: own, shape: sizes, dtype, mode }));
  });
}

/** The numbers of `--shape` under the operation's letters. */
export function shapeOf(op: Operation, numbers?: readonly number[]): Shape {
  const axes = op.axes.join();
  const given = numbers ?? DEFAULT_SHAPES[axes];
  if (given.length !== op.axes.length) {
    throw new UsageError(
      `--shape ${given}: ${op.name} takes ${axes} (${op.axes.length} numbers), got ${given.length}`,
    );
  }
  const shape = Object.fromEntries(op.axes.map((axis, i) => [axis, given[i]]));
  const objection = op.objection?.(shape);
  if (objection) throw new UsageError(`--shape ${given}: ${objection}`);
  return shape;
}

const HEAD = [
  'operation',
  'pass',
  'mode',
  'shape',
  'median',
  'p25 .. p75',
  'ns/token/head',
  'GF/s',
  'peak GF/s',
  'of peak',
];

function lineOf(row: MeasuredCase): string[] {
  const { op, pass, mode, shape, median, p25, p75, nsPerTokenHead, gflops, peak, share } = row;
  return [
    op.name,
    pass,
    op.recurrent ? mode : '',
    shapeText(pass === 'decode' ? { ...shape, T: 1 } : shape),
    duration(median),
    `${duration(p25)} .. ${duration(p75)}`,
    nsPerTokenHead === undefined ? '' : significant(nsPerTokenHead),
    gflops === undefined ? '' : significant(gflops),
    significant(peak),
    share === undefined ? '' : `${(100 * share).toFixed(1)}%`,
  ];
}

/** A measured case as plain data. Times in nanoseconds, rates in GF/s. */
function toJson(row: MeasuredCase): object {
  const { op, pass, mode, shape, dtype, samples, median, p25, p75, mad, error } = row;
  const { nsPerTokenHead, gflops, peak, share } = row;
  return {
    op: op.name,
    pass,
    ...(op.recurrent && { mode }),
    dtype,
    shape: pass === 'decode' ? { ...shape, T: 1 } : shape,
    isa: engine().info().isa,
    threads: engine().getNumThreads(),
    samples,
    medianNs: median,
    p25Ns: p25,
    p75Ns: p75,
    madNs: mad,
    nsPerTokenHead,
    flops: op.flops?.(pass, shape),
    gflops,
    peakGflops: peak,
    shareOfPeak: share,
    worstError: error,
  };
}
