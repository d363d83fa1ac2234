/** The scans beyond the grid: their problems, their references and the rows of the contract that their results are in. */
import * as gated from '../reference/gatedScan.ts';
import { hgrn, hgrnBackward } from '../reference/hgrn.ts';
import type { Row } from './compare.ts';
import { contract, layouts } from './compare.ts';
import type { FloatDtype } from './half.ts';
import type { Random } from './random.ts';
import type { Tensor32, TensorLike } from './tensor.ts';
import { sizeOf } from './tensor.ts';

export interface ScanShape {
  B: number;
  T: number;
  H: number;
  K: number;
  V: number;
}

export type Tensors = Record<string, Tensor32>;
type References = Record<string, TensorLike | undefined>;

export interface Scan {
  name: string;
  /** Shapes of the inputs, and how they are drawn. */
  inputs: (shape: ScanShape) => Record<string, [shape: number[], kind: Kind]>;
  /** Inputs that are float32, or as the leading ones; the others are as those. */
  either: readonly string[];
  /** Inputs without a token axis. */
  fixed: readonly string[];
  output: (shape: ScanShape) => number[];
  /** Of one sequence. */
  state: (shape: ScanShape) => number[];
  /** As createState() takes it. */
  held: (shape: ScanShape) => { valueHeads: number; keyDim: number; valueDim: number };
  forward: (inputs: any, options?: any) => References;
  backward: (inputs: any, options?: any) => References;
}

type Kind = 'normal' | 'gate' | 'unit' | 'small';

const matrix = {
  output: ({ B, T, H, V }: ScanShape) => [B, T, H, V],
  state: ({ H, K, V }: ScanShape) => [H, K, V],
  held: ({ H, K, V }: ScanShape) => ({ valueHeads: H, keyDim: K, valueDim: V }),
};

const keys = ({ B, T, H, K }: ScanShape) => [B, T, H, K];
const values = ({ B, T, H, V }: ScanShape) => [B, T, H, V];

export const scans: readonly Scan[] = [
  {
    name: 'dplr',
    inputs: (s) => ({
      q: [keys(s), 'normal'],
      k: [keys(s), 'normal'],
      v: [values(s), 'normal'],
      g: [keys(s), 'gate'],
      a: [keys(s), 'small'],
      b: [keys(s), 'small'],
    }),
    either: ['g'],
    fixed: [],
    ...matrix,
    ...gated.dplr,
  },
  {
    name: 'rwkv7',
    inputs: (s) => ({
      r: [keys(s), 'normal'],
      w: [keys(s), 'normal'],
      k: [keys(s), 'normal'],
      v: [values(s), 'normal'],
      kappa: [keys(s), 'normal'],
      a: [keys(s), 'unit'],
    }),
    either: ['w'],
    fixed: [],
    ...matrix,
    ...gated.rwkv7,
  },
  {
    name: 'rwkv6',
    inputs: (s) => ({
      q: [keys(s), 'normal'],
      k: [keys(s), 'normal'],
      v: [values(s), 'normal'],
      g: [keys(s), 'gate'],
      u: [[s.H, s.K], 'normal'],
    }),
    either: ['g', 'u'],
    fixed: ['u'],
    ...matrix,
    ...gated.rwkv6,
  },
  {
    name: 'hgrn',
    inputs: ({ B, T, H, K }) => ({
      x: [[B, T, H * K], 'normal'],
      g: [[B, T, H * K], 'gate'],
    }),
    either: ['g'],
    fixed: [],
    output: ({ B, T, H, K }) => [B, T, H * K],
    state: ({ H, K }) => [H * K],
    held: ({ H, K }) => ({ valueHeads: H * K, keyDim: 1, valueDim: 1 }),
    forward: (inputs, options) => ({ ...hgrn(inputs, options) }),
    backward: (inputs, options) => ({ ...hgrnBackward(inputs, options) }),
  },
];

export interface ScanProblem {
  inputs: Tensors;
  /** `dO` and `dFinalState`. */
  gradients: Tensors;
}

/** Seeded values; N is the number of sequences, default B. */
export function drawScan(
  scan: Scan,
  shape: ScanShape,
  random: Random,
  { N = shape.B, gateScale = 1 / 16, states = true } = {},
): ScanProblem {
  const normal = (dims: number[]): Tensor32 => ({
    data: random.normals(sizeOf(dims)),
    shape: dims,
  });
  const draw = (dims: number[], kind: Kind): Tensor32 => {
    const tensor = normal(dims);
    const { data } = tensor;
    for (let i = 0; i < data.length; i++) {
      if (kind === 'gate') data[i] = -Math.abs(data[i]) * gateScale;
      if (kind === 'unit') data[i] = 1 / (1 + Math.exp(-data[i]));
      if (kind === 'small') data[i] *= 0.5 / Math.sqrt(shape.K);
    }
    return tensor;
  };
  const inputs: Tensors = {};
  for (const [name, [dims, kind]] of Object.entries(scan.inputs(shape))) {
    inputs[name] = draw(dims, kind);
  }
  const gradients: Tensors = { dO: normal(scan.output(shape)) };
  if (states) {
    inputs.initialState = normal([N, ...scan.state(shape)]);
    gradients.dFinalState = normal([N, ...scan.state(shape)]);
  }
  return { inputs, gradients };
}

const STATES = ['initialState', 'dFinalState'];

/** The dtype of an argument in a call of `dtype`. */
export function scanDtype(scan: Scan, name: string, dtype: FloatDtype, halfGates: boolean) {
  if (STATES.includes(name) || (scan.either.includes(name) && !halfGates)) return 'f32';
  return dtype;
}

/** The row of a result. The outputs of half-width calls are rounded; all else is float32. */
export function scanRow(scan: Scan, name: string, T: number, dtype: FloatDtype = 'f32'): Row {
  const { o, state, gate } = contract[dtype];
  if (name === 'o') return { limit: o.find(([longest]) => T <= longest)![1], layout: tokens(scan) };
  const argument = name.slice(1);
  if (name === 'finalState' || name === 'dInitialState') {
    return { limit: state, layout: { kept: [0] } };
  }
  if (scan.fixed.includes(argument)) return { limit: gate, layout: { kept: [] } };
  return { limit: scan.either.includes(argument) ? gate : state, layout: tokens(scan) };
}

function tokens(scan: Scan) {
  return scan.name === 'hgrn' ? { kept: [0], token: 1 } : layouts.tokens;
}
