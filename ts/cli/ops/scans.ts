// The scans beyond the grid.
import { gatedScans } from '#oracle/reference/gatedScan';
import { hgrn, hgrnBackward } from '#oracle/reference/hgrn';
import { s4d, s4dBackward } from '#oracle/reference/s4d';
import { tttLinear, tttLinearBackward } from '#oracle/reference/tttLinear';
import type { Tensor32 } from '#oracle/support/tensor';
import type { Operation, References, Shape, Tensors } from '../operation';
import type { Maker } from './layers';
import { operation } from './layers';

/** Log decays of a memory of some twenty tokens. */
function gates(tensor: Tensor32): Tensor32 {
  return { ...tensor, data: tensor.data.map((x) => -Math.abs(x) / 16) };
}

function scaled(tensor: Tensor32, by: number): Tensor32 {
  return { ...tensor, data: tensor.data.map((x) => x * by) };
}

type Inputs = Record<string, any>;

interface GatedScan {
  name: 'dplr' | 'rwkv7' | 'rwkv6';
  float32: readonly string[];
  draw: (keys: number[], make: Maker) => Tensors;
  /** Minimum flops per element of the state, as those of the grid are counted. */
  flops: { forward: number; backward: number };
}

function gated({ name, float32, draw, flops }: GatedScan): Operation {
  const reference = gatedScans[name];
  return operation({
    name,
    shapes: [
      { B: 1, T: 35, H: 2, K: 17, V: 23 },
      { B: 2, T: 66, H: 2, K: 32, V: 40 },
      { B: 1, T: 40, H: 1, K: 64, V: 64 },
    ],
    float32: [...float32, 'initialState'],
    rounded: ['o'],
    unbenched: ['initialState'],
    limits: { o: 2e-6, other: 1e-5 },
    draw: ({ B, T, H, K, V }, make) => ({
      ...draw([B, T, H, K], make),
      v: make.normals(B, T, H, V),
      initialState: make.normals(B, H, K, V),
      dO: make.normals(B, T, H, V),
    }),
    forward: (inputs: Inputs): References => ({ o: reference.forward(inputs).o }),
    backward: (inputs: Inputs) => reference.backward(inputs),
    flops: (pass, { B, T, H, K, V }: Shape) =>
      (pass === 'backward' ? flops.backward : flops.forward) * K * V * B * T * H,
    tokenHeads: (_pass, { B, T, H }) => B * T * H,
    tokens: 'T',
    usual: { B: 1, T: 512, H: 8, K: 64, V: 64 },
  });
}

const dplr = gated({
  name: 'dplr',
  float32: ['g'],
  draw: (keys, { normals }) => {
    const small = 0.5 / Math.sqrt(keys[3]);
    return {
      q: normals(...keys),
      k: normals(...keys),
      g: gates(normals(...keys)),
      a: scaled(normals(...keys), small),
      b: scaled(normals(...keys), small),
    };
  },
  flops: { forward: 8, backward: 20 },
});

const rwkv7 = gated({
  name: 'rwkv7',
  float32: ['w'],
  draw: (keys, { normals }) => {
    const a = normals(...keys);
    return {
      r: normals(...keys),
      w: normals(...keys),
      k: normals(...keys),
      kappa: normals(...keys),
      a: { ...a, data: a.data.map((x) => 1 / (1 + Math.exp(-x))) },
    };
  },
  flops: { forward: 8, backward: 20 },
});

const rwkv6 = gated({
  name: 'rwkv6',
  float32: ['g', 'u'],
  draw: (keys, { normals }) => ({
    q: normals(...keys),
    k: normals(...keys),
    g: gates(normals(...keys)),
    u: normals(keys[2], keys[3]),
  }),
  flops: { forward: 4, backward: 10 },
});

const elementwise = operation({
  name: 'hgrn',
  shapes: [
    { B: 2, T: 35, D: 70 },
    { B: 1, T: 300, D: 260 },
  ],
  float32: ['initialState'],
  rounded: ['o'],
  unbenched: ['initialState'],
  limits: { o: 2e-6, other: 1e-5 },
  draw: ({ B, T, D }, { normals }) => ({
    x: normals(B, T, D),
    g: gates(normals(B, T, D)),
    initialState: normals(B, D),
    dO: normals(B, T, D),
  }),
  forward: (inputs: any): References => ({ o: hgrn(inputs).o }),
  backward: (inputs: any) => hgrnBackward(inputs),
  // The exponential, a product and a sum; backward those again, dh (3) and dg (2).
  flops: (pass, { B, T, D }) => (pass === 'backward' ? 8 : 3) * B * T * D,
  tokens: 'T',
  usual: { B: 1, T: 512, D: 2048 },
});

/** Parameters as the paper draws them: steps from 0.001 to 0.1, A = -1/2 + i pi n. */
function stateSpace(name: string, mode: 'recurrent' | 'convolution'): Operation {
  const half = Math.log(0.5);
  return {
    ...operation({
      name: 's4d',
      options: { mode },
      shapes: [
        { B: 2, T: 35, D: 11, N: 3 },
        { B: 1, T: 130, D: 8, N: 16 },
      ],
      float32: ['logDt', 'logAReal', 'AImag', 'C', 'D'],
      limits: { y: 1e-6, other: 1e-6 },
      draw: ({ B, T, D, N }, { normals }) => {
        const [logDt, AImag] = [normals(D), normals(D, N)];
        return {
          x: normals(B, T, D),
          logDt: { ...logDt, data: logDt.data.map((x) => Math.log(0.01) + Math.tanh(x) * 2.3) },
          logAReal: { ...AImag, data: AImag.data.map(() => half) },
          AImag: { ...AImag, data: AImag.data.map((_, i) => Math.PI * (i % N)) },
          C: normals(D, N, 2),
          D: normals(D),
          dY: normals(B, T, D),
        };
      },
      forward: (inputs: any): References => ({ y: s4d(inputs).y }),
      backward: (inputs: any) => {
        const { dInitialState: _zeros, ...gradients } = s4dBackward(inputs);
        return gradients;
      },
      // As the recurrence has them: the step 8, the output 4; backward these again, and 32.
      flops: (pass, { B, T, D, N }) => (pass === 'backward' ? 44 : 12) * B * T * D * N,
      tokens: 'T',
      usual: { B: 4, T: 1024, D: 256, N: 32 },
    }),
    name,
  };
}

const learning = operation({
  name: 'tttLinear',
  shapes: [
    { B: 2, T: 35, H: 2, D: 17 },
    { B: 1, T: 40, H: 1, D: 32 },
  ],
  float32: ['eta', 'lnWeight', 'lnBias', 'W', 'b'],
  rounded: ['o'],
  limits: { o: 2e-6, other: 5e-5 },
  draw: ({ B, T, H, D }, { normals }) => {
    const eta = normals(B, T, H);
    return {
      q: normals(B, T, H, D),
      k: normals(B, T, H, D),
      v: normals(B, T, H, D),
      eta: { ...eta, data: eta.data.map((x) => Math.abs(x) / (4 * D)) },
      lnWeight: normals(H, D),
      lnBias: scaled(normals(H, D), 0.3),
      W: scaled(normals(H, D, D), D ** -0.5),
      b: scaled(normals(H, D), 0.5),
      dO: normals(B, T, H, D),
    };
  },
  forward: (inputs: any): References => ({ o: tttLinear(inputs).o }),
  backward: (inputs: any) => tttLinearBackward(inputs),
  // Z, the output and the step; backward two for each of these, and what it computes again.
  flops: (pass, { B, T, H, D }) => (pass === 'backward' ? 18 : 6) * D * D * B * T * H,
  tokenHeads: (_pass, { B, T, H }) => B * T * H,
  tokens: 'T',
  usual: { B: 1, T: 512, H: 8, D: 64 },
});

export const scans: readonly Operation[] = [
  dplr,
  rwkv7,
  rwkv6,
  elementwise,
  stateSpace('s4d', 'recurrent'),
  stateSpace('s4d/convolution', 'convolution'),
  learning,
];
