/** A report of a benchmark that nobody ran, with results that a test can work out. */
import type { BenchReport, CaseResult } from '../../ts/cli/bench/schema';

export interface Made extends Partial<CaseResult> {
  T?: number;
  nsPerTokenHead?: number;
}

/** H 2, K = V = 64, additive: 4 K V flops per token and head, on a peak of 100 GF/s. */
export function madeCase({ T = 512, nsPerTokenHead = 200, ...rest }: Made = {}): CaseResult {
  const heads = 2 * T;
  const medianNs = nsPerTokenHead * heads;
  const flops = 4 * 64 * 64 * heads;
  const bytes = 4 * 64 * 5 * heads;
  return {
    op: 'gla',
    pass: 'forward',
    mode: 'auto',
    dtype: 'f32',
    shape: { B: 1, T, H: 2, HV: 2, K: 64, V: 64 },
    isa: 'avx2',
    threads: 1,
    samples: 20,
    minNs: 0.9 * medianNs,
    medianNs,
    p25Ns: 0.95 * medianNs,
    p75Ns: 1.1 * medianNs,
    madNs: 0.01 * medianNs,
    noise: 0.01,
    nsPerTokenHead,
    flops,
    gflops: flops / medianNs,
    peak: 'f32',
    peakGflops: 100,
    shareOfPeak: flops / medianNs / 100,
    bytes,
    gbPerSecond: bytes / medianNs,
    level: 'L3',
    levelGbPerSecond: 50,
    shareOfBandwidth: bytes / medianNs / 50,
    worstError: 0.3,
    peers: [],
    ...rest,
  };
}

export function madeReport(cases: CaseResult[], processor = 'Processor of a test'): BenchReport {
  const bandwidths = [
    { level: 'L1', capacity: 48 << 10, workingSet: 24 << 10, read: 400, update: 380 },
    { level: 'L2', capacity: 1 << 20, workingSet: 1 << 19, read: 200, update: 250 },
    { level: 'memory', capacity: null, workingSet: 128 << 20, read: 30, update: 40 },
  ];
  const places = new Map(cases.map(({ isa, threads }) => [`${isa} ${threads}`, { isa, threads }]));
  return {
    schema: 'rankone-bench',
    version: 1,
    created: '2026-01-02T03:04:05.000Z',
    machine: {
      version: '0.1.0',
      node: 'v20.0.0',
      platform: 'linux',
      arch: 'x64',
      libc: 'glibc 2.36',
      processor,
      isa: 'avx2',
      availableIsas: ['baseline', 'avx2'],
      threads: 1,
      binary: 'rankone.node',
      cuda: 'cuda unavailable: a test',
    },
    options: { seconds: 0.5, peers: [] },
    ceilings: [...places.values()].map((place) => ({ ...place, peaks: { f32: 100 }, bandwidths })),
    cases,
    peers: [],
    skipped: [],
    failures: [],
  };
}
