// Sequences cut into segments: summaries, what outputs say about the state that enters, the states in between.
import {
  composeStates,
  composeStatesBackward,
  segmentGradient,
  segmentSummary,
  segmentSummaryBackward,
} from '#oracle/reference/segments';
import type { Tensor32 } from '#oracle/support/tensor';
import type { Operation, References, Shape, Tensors } from '../operation';
import type { Maker } from './layers';
import { operation } from './layers';

const SHAPES: readonly Shape[] = [
  { B: 1, T: 35, H: 2, K: 17, V: 23 },
  { B: 2, T: 40, H: 1, K: 16, V: 40 },
];

const mapped = (x: Tensor32, f: (value: number) => number): Tensor32 => ({
  ...x,
  data: x.data.map(f),
});

/** Keys of about unit length, log decays of a memory of some twenty tokens; GLA, or gated DeltaNet. */
function drawn(delta: boolean, { B, T, H, K, V }: Shape, { normals }: Maker) {
  const gates = delta ? normals(B, T, H) : normals(B, T, H, K);
  return {
    k: mapped(normals(B, T, H, K), (x) => x / Math.sqrt(K)),
    v: normals(B, T, H, V),
    g: mapped(gates, (x) => -Math.abs(x) / 16),
    ...(delta && { beta: mapped(normals(B, T, H), (x) => 1 / (1 + Math.exp(-x))) }),
  };
}

const common = {
  shapes: SHAPES,
  limits: { other: 1e-5, dg: 5e-5, dbeta: 5e-5 },
  tokenHeads: (_pass: string, { B, T, H }: Shape) => B * T * H,
  tokens: 'T',
  usual: { B: 1, T: 512, H: 8, K: 64, V: 64 },
};

function summary(delta: boolean): Operation {
  const row = operation({
    ...common,
    name: 'segmentSummary',
    float32: ['g', 'beta', 'dTransition', 'dState'],
    rounded: [],
    draw: (shape, make) => {
      const { B, H, K, V } = shape;
      return {
        ...drawn(delta, shape, make),
        dTransition: make.normals(B, H, K, ...(delta ? [K] : [])),
        dState: make.normals(B, H, K, V),
      } as Tensors;
    },
    forward: (inputs: any): References => ({ ...segmentSummary(inputs) }),
    backward: (inputs: any) => segmentSummaryBackward(inputs),
    // Writes alone, with the delta rule a read each as well, there of K + V columns; backward two or three times that.
    flops: (pass, { B, T, H, K, V }) => {
      const forward = delta ? 4 * K * (V + K) : 2 * K * V;
      return (pass === 'backward' ? 3 : 1) * forward * B * T * H;
    },
  });
  return delta ? { ...row, name: 'segmentSummary/delta' } : row;
}

function gradient(delta: boolean): Operation {
  const row = operation({
    ...common,
    name: 'segmentGradient',
    float32: ['g', 'beta'],
    rounded: [],
    draw: (shape, make) => {
      const { B, T, H, K, V } = shape;
      const { v: _, ...keys } = drawn(delta, shape, make);
      return { q: make.normals(B, T, H, K), ...keys, dO: make.normals(B, T, H, V) } as Tensors;
    },
    forward: (inputs: any): References => ({ ...segmentGradient(inputs) }),
    flops: (_pass, { B, T, H, K, V }) => (delta ? 6 : 2) * K * V * B * T * H,
  });
  return delta ? { ...row, name: 'segmentGradient/delta' } : row;
}

const composition = operation({
  name: 'composeStates',
  shapes: [
    { R: 3, N: 2, H: 2, K: 9, V: 7 },
    { R: 4, N: 1, H: 1, K: 40, V: 33 },
  ],
  limits: { other: 1e-5 },
  halves: false,
  forwardOnly: ['states'],
  draw: ({ R, N, H, K, V }, { normals }) => ({
    transitions: mapped(normals(R, N, H, K, K), (x) => x / Math.sqrt(K)),
    states: normals(R, N, H, K, V),
    initialState: normals(N, H, K, V),
    dInitialStates: normals(R, N, H, K, V),
  }),
  forward: (inputs: any): References => ({ ...composeStates(inputs) }),
  backward: (inputs: any) => composeStatesBackward(inputs),
  // A product of a transition and a state; backward as well, where no gradient of transitions is asked for.
  flops: (_pass, { R, N, H, K, V }) => 2 * K * K * V * R * N * H,
  tokens: 'R',
  usual: { R: 8, N: 1, H: 8, K: 64, V: 64 },
});

export const segments: readonly Operation[] = [
  summary(false),
  summary(true),
  gradient(false),
  gradient(true),
  composition,
];
