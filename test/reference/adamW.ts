/**
 * AdamW (Loshchilov and Hutter, 2019) in float64, in PyTorch's form:
 *   p <- (1 - lr weightDecay) p;  m <- b1 m + (1-b1) g;  v <- b2 v + (1-b2) g^2;
 *   p <- p - lr mhat / (sqrt(vhat) + eps), mhat = m / (1-b1^step), vhat = v / (1-b2^step).
 */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { toFloat64 } from '../support/tensor.ts';

export interface AdamWInputs {
  param: TensorLike;
  grad: TensorLike;
  m: TensorLike;
  v: TensorLike;
}

export interface AdamWOptions {
  /** Counts from 1. */
  step: number;
  /** Default 1e-3. */
  lr?: number;
  /** Default 0.9. */
  beta1?: number;
  /** Default 0.999. */
  beta2?: number;
  /** Default 1e-8. */
  eps?: number;
  /** Default 0.01. */
  weightDecay?: number;
}

/** Returns the updated tensors and leaves the inputs alone. */
export function adamW(
  inputs: AdamWInputs,
  options: AdamWOptions,
): { param: Tensor64; m: Tensor64; v: Tensor64 } {
  const { step, lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weightDecay = 0.01 } = options;
  const param = toFloat64(inputs.param);
  const m = toFloat64(inputs.m);
  const v = toFloat64(inputs.v);
  for (let i = 0; i < param.data.length; i++) {
    const g = inputs.grad.data[i];
    m.data[i] = beta1 * m.data[i] + (1 - beta1) * g;
    v.data[i] = beta2 * v.data[i] + (1 - beta2) * g * g;
    const mHat = m.data[i] / (1 - beta1 ** step);
    const vHat = v.data[i] / (1 - beta2 ** step);
    param.data[i] *= 1 - lr * weightDecay;
    param.data[i] -= (lr * mHat) / (Math.sqrt(vHat) + eps);
  }
  return { param, m, v };
}
