// Softmax attention: causal over a sequence, and a token over those before it.
import * as reference from '#oracle/reference/attention';
import * as localLinear from '#oracle/reference/localLinearAttention';
import type { Operation, Pass, Shape } from '../operation';
import { type Definition, operation } from './layers';

const VERIFIED: readonly Shape[] = [
  { B: 2, T: 37, S: 37, H: 4, HKV: 2, K: 33, V: 20 },
  { B: 1, T: 130, S: 200, H: 2, HKV: 2, K: 64, V: 64 },
  { B: 1, T: 1, S: 1500, H: 4, HKV: 1, K: 40, V: 72 },
];

/** Of queries at the end of the keys, how many keys each sees, added up. */
function pairs({ T, S }: Shape): number {
  const seeing = Math.min(T, S);
  return seeing * (S - seeing) + (seeing * (seeing + 1)) / 2;
}

/** Scores and sums of values; backward scores again, gradients of weights, and one product for each of dq, dk and dv. */
function flops(pass: Pass, shape: Shape): number {
  const { B, H, K, V } = shape;
  return (pass === 'backward' ? 6 * K + 4 * V : 2 * K + 2 * V) * B * H * pairs(shape);
}

const causal = {
  name: 'attention',
  shapes: VERIFIED,
  float32: ['sinks', 'lse', 'dLse'],
  rounded: ['o'],
  unbenched: ['sinks', 'gate'],
  // Of a gradient with 1500 terms that cancel.
  limits: { o: 2e-6, other: 1e-5 },
  draw: ({ B, T, S, H, HKV, K, V }, { normals }) => ({
    q: normals(B, T, H, K),
    k: normals(B, S, HKV, K),
    v: normals(B, S, HKV, V),
    sinks: normals(H),
    gate: normals(B, T, H, V),
    dO: normals(B, T, H, V),
  }),
  forward: (inputs) => ({ o: reference.attention(inputs).o }),
  backward: reference.attentionBackward,
  flops,
  tokens: 'T',
  usual: { B: 1, T: 512, S: 512, H: 8, HKV: 8, K: 64, V: 64 },
} satisfies Definition;

function grouped({ H, HKV }: Shape): string | undefined {
  return H % HKV === 0 ? undefined : `H = ${H} is no multiple of HKV = ${HKV}`;
}

const row: Operation = { ...operation(causal), objection: grouped };

/** A step of a decode, whose time is that of reading keys and values. */
const token: Operation = {
  ...row,
  name: 'attention/token',
  passes: ['forward'],
  backward: undefined,
  shapes: [
    { B: 2, T: 1, S: 700, H: 4, HKV: 2, K: 33, V: 20 },
    { B: 1, T: 1, S: 100, H: 8, HKV: 1, K: 128, V: 128 },
  ],
  tokens: 'S',
  usual: { B: 1, T: 1, S: 4096, H: 32, HKV: 8, K: 128, V: 128 },
};

const STEPS = 12;

/** Ridges that this many steps are enough for, so that the work in a call does not depend on the data. */
const local: Operation = {
  ...operation({
    name: 'localLinearAttention',
    shapes: VERIFIED,
    options: { tolerance: 0, maxIterations: STEPS },
    float32: ['lambda'],
    rounded: ['o'],
    limits: { o: 3e-6, other: 1e-5 },
    draw: ({ B, T, S, H, HKV, K, V }, { normals }) => {
      const lambda = normals(B, T, H);
      return {
        q: normals(B, T, H, K),
        k: normals(B, S, HKV, K),
        v: normals(B, S, HKV, V),
        lambda: { ...lambda, data: lambda.data.map((x) => 4 + Math.abs(x)) },
        dO: normals(B, T, H, V),
      };
    },
    forward: (inputs: any) => ({ o: localLinear.localLinearAttention(inputs).o }),
    backward: (inputs: any) => localLinear.localLinearAttentionBackward(inputs),
    // Scores, mean and diagonal, 4 K a step, the output; backward the first of these, two systems, and what dO meets: its
    // own system's right side, then scores, both solutions and values again, and the products of the three gradients.
    flops: (pass, shape) => {
      const { B, H, K, V } = shape;
      const each = pass === 'backward' ? (22 + 8 * STEPS) * K + 6 * V : (8 + 4 * STEPS) * K + 2 * V;
      return each * B * H * pairs(shape);
    },
    tokens: 'T',
    usual: { B: 1, T: 512, S: 512, H: 8, HKV: 8, K: 64, V: 64 },
  }),
  objection: grouped,
};

export const attentions: readonly Operation[] = [row, token, local];
