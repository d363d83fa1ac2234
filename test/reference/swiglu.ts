/** y = silu(a) * b, elementwise in float64. */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, zeros } from '../support/tensor.ts';
import { silu, siluDerivative } from './activations.ts';

export interface SwigluInputs {
  a: TensorLike; // [...]
  b: TensorLike; // [...]
}

export function swiglu({ a, b }: SwigluInputs): Tensor64 {
  expectShape('b', b, a.shape);
  const y = zeros(a.shape);
  for (let i = 0; i < y.data.length; i++) y.data[i] = silu(a.data[i]) * b.data[i];
  return y;
}

export function swigluBackward({ a, b, dY }: SwigluInputs & { dY: TensorLike }): {
  da: Tensor64;
  db: Tensor64;
} {
  const da = zeros(a.shape);
  const db = zeros(b.shape);
  for (let i = 0; i < da.data.length; i++) {
    da.data[i] = dY.data[i] * b.data[i] * siluDerivative(a.data[i]);
    db.data[i] = dY.data[i] * silu(a.data[i]);
  }
  return { da, db };
}
