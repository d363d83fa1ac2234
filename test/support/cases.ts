/**
 * Seeded problems of the recurrence grid, shared by tests and benchmarks. Every value is exact in
 * float32. Keys have unit norm, log gates are gateScale * logSigmoid(normal), beta is
 * betaMax * sigmoid(normal).
 */
import { Random } from './random.ts';
import type { Tensor32 } from './tensor.ts';
import { sizeOf } from './tensor.ts';

export const gates = ['none', 'head', 'token', 'channel'] as const;
export const updates = ['additive', 'delta'] as const;

export type Gate = (typeof gates)[number];
export type Update = (typeof updates)[number];

export interface ProblemSpec {
  B: number;
  T: number;
  H: number;
  /** Default H. */
  HV?: number;
  K: number;
  V: number;
  /** Householder steps per token, default 1. */
  n?: number;
  gate: Gate;
  update: Update;
  seed?: number;
  /** Default 1; 2 gives negative eigenvalues. */
  betaMax?: number;
  /** Default 1/16, a memory of some twenty tokens. */
  gateScale?: number;
  withInitialState?: boolean;
  withFinalStateGradient?: boolean;
  /** Number of packed sequences, which own the states; default B. */
  N?: number;
  /** Positive queries and keys, as a normalizer wants them, and its z beside the states. */
  normalize?: boolean;
}

export interface Problem {
  q: Tensor32; // [B,T,H,K]
  k: Tensor32; // [B,T*n,H,K]
  v: Tensor32; // [B,T*n,HV,V]
  g?: Tensor32; // [HV], [B,T,HV] or [B,T,HV,K]
  beta?: Tensor32; // [B,T*n,HV]
  initialState?: Tensor32; // [N,HV,K,V]
  initialZ?: Tensor32; // [N,H,K]
  dO: Tensor32; // [B,T,HV,V]
  dFinalState?: Tensor32; // [N,HV,K,V]
  dFinalZ?: Tensor32; // [N,H,K]
}

export function makeProblem(spec: ProblemSpec): Problem {
  const { B, T, H, HV = H, K, V, n = 1, gate, update, N = B } = spec;
  const { seed = 1, betaMax = 1, gateScale = 1 / 16 } = spec;
  const random = new Random(seed);
  const draw = (shape: number[], value: () => number): Tensor32 => {
    return { data: random.fill(sizeOf(shape), value), shape };
  };
  const normal = (shape: number[]): Tensor32 => draw(shape, () => random.normal());

  const problem: Problem = {
    q: normal([B, T, H, K]),
    k: normalizeRows(normal([B, T * n, H, K])),
    v: normal([B, T * n, HV, V]),
    dO: normal([B, T, HV, V]),
  };
  const gateShape = gateShapeOf(gate, { B, T, HV, K });
  if (gateShape) problem.g = draw(gateShape, () => gateScale * logSigmoid(random.normal()));
  if (update === 'delta') {
    problem.beta = draw([B, T * n, HV], () => betaMax / (1 + Math.exp(-random.normal())));
  }
  if (spec.withInitialState) problem.initialState = normal([N, HV, K, V]);
  if (spec.withFinalStateGradient) problem.dFinalState = normal([N, HV, K, V]);
  if (spec.normalize) addNormalizer(problem, spec, (shape) => draw(shape, () => random.uniform()));
  return problem;
}

/** A short label of a problem for test names and error messages. */
export function describeProblem(spec: ProblemSpec): string {
  const { B, T, H, HV = H, K, V, n = 1, gate, update, seed = 1 } = spec;
  return `${gate} ${update} B${B} T${T} H${H} HV${HV} K${K} V${V} n${n} seed ${seed}`;
}

function addNormalizer(
  problem: Problem,
  { H, K, B, N = B, ...spec }: ProblemSpec,
  draw: (shape: number[]) => Tensor32,
): void {
  for (const { data } of [problem.q, problem.k]) {
    for (let i = 0; i < data.length; i++) data[i] = Math.abs(data[i]);
  }
  if (spec.withInitialState) problem.initialZ = draw([N, H, K]);
  if (spec.withFinalStateGradient) problem.dFinalZ = draw([N, H, K]);
}

function gateShapeOf(
  gate: Gate,
  { B, T, HV, K }: { B: number; T: number; HV: number; K: number },
): number[] | undefined {
  switch (gate) {
    case 'none':
      return undefined;
    case 'head':
      return [HV];
    case 'token':
      return [B, T, HV];
    case 'channel':
      return [B, T, HV, K];
  }
}

function normalizeRows(tensor: Tensor32): Tensor32 {
  const { data, shape } = tensor;
  const width = shape[shape.length - 1];
  for (let row = 0; row < data.length; row += width) {
    const values = data.subarray(row, row + width);
    const norm = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0)) || 1;
    for (let i = 0; i < width; i++) values[i] /= norm;
  }
  return tensor;
}

function logSigmoid(x: number): number {
  return x < 0 ? x - Math.log1p(Math.exp(x)) : -Math.log1p(Math.exp(-x));
}
