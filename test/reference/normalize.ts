/**
 * The normalizer of linear attention in float64: o_t = S_t^T q_t / d_t, d_t = z_t^T q_t + 1e-10, with
 * z the running sum of a sequence's keys, one per key head. All value heads of a group share it.
 */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, toFloat64, zeros } from '../support/tensor.ts';

const EPSILON = 1e-10;

export interface Normalizer {
  /** z after each token, `[B,T,H,K]`. */
  z: Tensor64;
  /** d of each token, `[B,T,H]`. */
  d: Tensor64;
  /** z after each sequence, `[N,H,K]`. */
  finalZ: Tensor64;
}

interface Keys {
  q: Tensor64; // [B,T,H,K]
  k: Tensor64; // [B,T,H,K]
  /** Token indices count through the whole batch. */
  sequences: readonly { first: number; end: number }[];
}

export function normalizer({ q, k, sequences }: Keys, initialZ?: TensorLike): Normalizer {
  const [B, T, H, K] = q.shape;
  const shape = [sequences.length, H, K];
  if (initialZ) expectShape('initialZ', initialZ, shape);
  const finalZ = initialZ ? toFloat64(initialZ) : zeros(shape);
  const z = zeros(q.shape);
  const d = zeros([B, T, H]);
  sequences.forEach(({ first, end }, index) => {
    const running = finalZ.data.subarray(index * H * K, (index + 1) * H * K);
    for (let token = first; token < end; token++) {
      const row = token * H * K;
      for (let i = 0; i < H * K; i++) {
        running[i] += k.data[row + i];
        d.data[token * H + Math.floor(i / K)] += running[i] * q.data[row + i];
      }
      z.data.set(running, row);
    }
  });
  for (let i = 0; i < d.data.length; i++) d.data[i] += EPSILON;
  return { z, d, finalZ };
}

/** x / d, for x `[B,T,HV,V]`. */
export function divide(x: Tensor64, { d }: Normalizer): Tensor64 {
  const out = toFloat64(x);
  const [, , HV, V] = x.shape;
  const perKeyHead = HV / d.shape[2];
  for (let i = 0; i < out.data.length; i++) out.data[i] /= d.data[Math.floor(i / (perKeyHead * V))];
  return out;
}

/**
 * Gradients through d alone, added to dq and dk; returns dInitialZ. `o` is the divided output.
 * With dd_t = -(dO_t . o_t) / d_t: dq_t += dd_t z_t, and dd_t q_t reaches every key up to t.
 */
export function normalizerBackward(
  { q, sequences }: Keys,
  { z, d, finalZ }: Normalizer,
  { o, dO, dFinalZ }: { o: Tensor64; dO: TensorLike; dFinalZ?: TensorLike },
  { dq, dk }: { dq: Tensor64; dk: Tensor64 },
): Tensor64 {
  const [, , H, K] = q.shape;
  if (dFinalZ) expectShape('dFinalZ', dFinalZ, finalZ.shape);
  const dd = zeros(d.shape);
  const perDenominator = o.data.length / d.data.length;
  for (let i = 0; i < o.data.length; i++) {
    const at = Math.floor(i / perDenominator);
    dd.data[at] -= (dO.data[i] * o.data[i]) / d.data[at];
  }
  const dz = dFinalZ ? toFloat64(dFinalZ) : zeros(finalZ.shape);
  sequences.forEach(({ first, end }, index) => {
    const running = dz.data.subarray(index * H * K, (index + 1) * H * K);
    for (let token = end - 1; token >= first; token--) {
      const row = token * H * K;
      for (let i = 0; i < H * K; i++) {
        const slope = dd.data[token * H + Math.floor(i / K)];
        dq.data[row + i] += slope * z.data[row + i];
        running[i] += slope * q.data[row + i];
        dk.data[row + i] += running[i];
      }
    }
  });
  return dz;
}
