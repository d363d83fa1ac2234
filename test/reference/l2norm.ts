/** Vectors of unit length over the last axis in float64: y = x / sqrt(sum x^2 + eps). */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape } from '../support/tensor.ts';
import * as activations from './activations.ts';

export interface L2normOptions {
  /** Default 1e-6. */
  eps?: number;
}

export function l2norm({ x }: { x: TensorLike }, { eps = 1e-6 }: L2normOptions = {}): Tensor64 {
  return activations.l2norm(x, eps);
}

export function l2normBackward(
  { x, dY }: { x: TensorLike; dY: TensorLike },
  { eps = 1e-6 }: L2normOptions = {},
): { dx: Tensor64 } {
  expectShape('dY', dY, x.shape);
  return { dx: activations.l2normBackward(x, dY, eps) };
}
