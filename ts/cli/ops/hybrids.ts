// What puts two kinds of attention, or several memories, into one layer.
import * as windowLinear from '#oracle/reference/windowLinearAttention';
import type { Tensor32 } from '#oracle/support/tensor';
import type { Operation, Pass, Shape } from '../operation';
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
  objection: ({ H, HKV }: Shape) =>
    H % HKV === 0 ? undefined : `H = ${H} is no multiple of HKV = ${HKV}`,
};

export const hybrids: readonly Operation[] = [windowLinearAttention];
