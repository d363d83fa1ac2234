// The scans beyond the grid.
import { gatedScans } from '#oracle/reference/gatedScan';
import { hgrn, hgrnBackward } from '#oracle/reference/hgrn';
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

export const scans: readonly Operation[] = [dplr, rwkv7, rwkv6, elementwise];
