// What puts two kinds of attention, or several memories, into one layer.
import * as liger from '#oracle/reference/ligerAttention';
import * as mom from '#oracle/reference/mom';
import * as windowLinear from '#oracle/reference/windowLinearAttention';
import type { Tensor32 } from '#oracle/support/tensor';
import type { Operation, Pass, Shape } from '../operation';
import type { Definition, Maker } from './layers';
import { operation } from './layers';

const WINDOW = 64;

/** Features as maps have them, none of which is negative. */
function positive(tensor: Tensor32): Tensor32 {
  return { ...tensor, data: tensor.data.map((x) => Math.abs(x) / 4) };
}

/** As attention's over the keys of the windows, and as an additive cell's of the state, 4FV and 10FV a token. */
function windowLinearFlops(pass: Pass, { B, T, H, K, V, F }: Shape): number {
  const inside = Math.min(T, WINDOW);
  const pairs = inside * (T - inside) + (inside * (inside + 1)) / 2;
  const backward = pass === 'backward';
  const window = (backward ? 6 * K + 4 * V : 2 * K + 2 * V) * pairs;
  return B * H * (window + (backward ? 10 : 4) * F * V * T);
}

function grouped({ H, HKV }: Shape): string | undefined {
  return H % HKV === 0 ? undefined : `H = ${H} is no multiple of HKV = ${HKV}`;
}

const windowLinearAttention: Operation = {
  ...operation({
    name: 'windowLinearAttention',
    options: { window: WINDOW },
    shapes: [
      { B: 2, T: 75, H: 4, HKV: 2, K: 33, V: 20, F: 17 },
      { B: 1, T: 150, H: 2, HKV: 2, K: 64, V: 64, F: 64 },
    ],
    float32: ['windowFactors', 'initialState', 'initialZ'],
    rounded: ['o'],
    unbenched: ['initialState', 'initialZ'],
    limits: { o: 2e-6, dWindowFactors: 5e-5, other: 1e-5 },
    draw: ({ B, T, H, HKV, K, V, F }, { normals }) => ({
      q: normals(B, T, H, K),
      k: normals(B, T, HKV, K),
      v: normals(B, T, HKV, V),
      phiQ: positive(normals(B, T, H, F)),
      phiK: positive(normals(B, T, H, F)),
      windowFactors: normals(H),
      initialState: normals(B, H, F, V),
      initialZ: positive(normals(B, H, F)),
      dO: normals(B, T, H, V),
    }),
    forward: (inputs) => ({
      o: windowLinear.windowLinearAttention(inputs, { window: WINDOW }).o,
    }),
    backward: (inputs: any) =>
      windowLinear.windowLinearAttentionBackward(inputs, { window: WINDOW }),
    flops: windowLinearFlops,
    tokens: 'T',
    usual: { B: 1, T: 512, H: 8, HKV: 8, K: 64, V: 64, F: 128 },
  }),
  objection: grouped,
};

/** As attention's in the window and as a channel gate's cell, 4KV and 10KV a token. */
function ligerFlops(pass: Pass, { B, T, H, K, V }: Shape): number {
  return windowLinearFlops(pass, { B, T, H, K, V, F: K });
}

const ligerAttention: Operation = {
  ...operation({
    name: 'ligerAttention',
    options: { window: WINDOW },
    shapes: [
      { B: 2, T: 75, H: 4, HKV: 2, K: 33, V: 20 },
      { B: 1, T: 150, H: 2, HKV: 2, K: 64, V: 64 },
    ],
    float32: ['initialState'],
    rounded: ['o'],
    unbenched: ['initialState', 'windowQ', 'windowK'],
    limits: { o: 2e-6, other: 1e-5 },
    draw: ({ B, T, H, HKV, K, V }, { normals }) => ({
      q: normals(B, T, H, K),
      k: normals(B, T, HKV, K),
      v: normals(B, T, HKV, V),
      windowQ: normals(B, T, H, K),
      windowK: normals(B, T, HKV, K),
      initialState: normals(B, H, K, V),
      dO: normals(B, T, H, V),
    }),
    forward: (inputs) => ({ o: liger.ligerAttention(inputs, { window: WINDOW }).o }),
    backward: (inputs: any) => liger.ligerAttentionBackward(inputs, { window: WINDOW }),
    flops: ligerFlops,
    tokens: 'T',
    usual: { B: 1, T: 512, H: 8, HKV: 8, K: 64, V: 64 },
  }),
  objection: grouped,
};

const TOP_K = 2;

/** Bound by memory: of their arithmetic little is more than a copy. */
function momOperation(
  name: string,
  definition: Pick<Definition, 'draw' | 'forward' | 'backward' | 'float32' | 'flops'> &
    Partial<Definition>,
): Operation {
  return operation({
    name,
    shapes: [
      { B: 2, T: 35, M: 4, H: 2, V: 17 },
      { B: 1, T: 130, M: 7, H: 3, V: 64 },
    ],
    limits: { other: 2e-6 },
    tokens: 'T',
    usual: { B: 1, T: 2048, M: 4, H: 8, V: 64 },
    ...definition,
  });
}

/** Where the entries of seeded logits go. */
function routed({ B, T, M }: Shape, { normals }: Maker) {
  const found = mom.momRoute({ logits: normals(B, T, M) }, { topK: TOP_K });
  const indices = ({ data, shape }: { data: Float64Array; shape: number[] }) => ({
    data: Int32Array.from(data),
    shape,
  });
  const weights = { data: Float32Array.from(found.weights.data), shape: found.weights.shape };
  return { weights, order: indices(found.order), slots: indices(found.slots) };
}

const elements = ({ B, T, H, V }: Shape): number => B * T * TOP_K * H * V;

const momRoute = momOperation('momRoute', {
  options: { topK: TOP_K },
  float32: [],
  limits: { other: 2e-6, memories: 0, order: 0, slots: 0, cuSeqlens: 0 },
  rounded: [],
  draw: ({ B, T, M }, { normals }) => ({ logits: normals(B, T, M) }),
  forward: (inputs) => mom.momRoute(inputs, { topK: TOP_K }),
  // A comparison with each logit of the chosen, the exponentials and quotients.
  flops: (_pass, { B, T, M }) => B * T * (TOP_K * M + 3 * TOP_K),
});

const momGather = momOperation('momGather', {
  float32: [],
  limits: { other: 0 },
  draw: (shape, make) => {
    const { order } = routed(shape, make);
    return { x: make.normals(shape.B, shape.T, shape.H, shape.V), order };
  },
  forward: mom.momGather,
  flops: () => 0,
});

const momCombine = momOperation('momCombine', {
  float32: ['weights'],
  unbenched: ['shared'],
  forwardOnly: ['shared'],
  draw: (shape, make) => {
    const { B, T, H, V } = shape;
    const { weights, slots } = routed(shape, make);
    return {
      o: make.normals(1, B * T * TOP_K, H, V),
      weights,
      slots,
      shared: make.normals(B, T, H, V),
      dY: make.normals(B, T, H, V),
    };
  },
  forward: mom.momCombine,
  backward: mom.momCombineBackward,
  flops: (pass, shape) => (pass === 'backward' ? 3 : 2) * elements(shape),
});

export const hybrids: readonly Operation[] = [
  windowLinearAttention,
  ligerAttention,
  momRoute,
  momGather,
  momCombine,
];
