/** S^T x and the gradient estimated from it, in float64, for a given S. */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { sizeOf, zeros } from '../support/tensor.ts';

/** a^T b of matrices with as many rows, leading dimensions taken as one. */
function transposedProduct(a: TensorLike, b: TensorLike): Tensor64 {
  const [left, right] = [a, b].map(({ shape }) => shape[shape.length - 1]);
  const rows = sizeOf(a.shape.slice(0, -1));
  const product = zeros([left, right]);
  for (let m = 0; m < rows; m++)
    for (let i = 0; i < left; i++)
      for (let j = 0; j < right; j++)
        product.data[i * right + j] += a.data[m * left + i] * b.data[m * right + j];
  return product;
}

export function rowSketch(x: TensorLike, s: TensorLike): { sketch: Tensor64 } {
  return { sketch: transposedProduct(s, x) };
}

export function rowSketchGradient(
  dY: TensorLike,
  sketch: TensorLike,
  s: TensorLike,
): { dWeight: Tensor64 } {
  return { dWeight: transposedProduct(transposedProduct(s, dY), sketch) };
}
