/** norms_i = |(W + scale B M A)_i| in float64. */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, zeros } from '../support/tensor.ts';

export interface DoraNormsInputs {
  weight: TensorLike; // [out,in]
  a: TensorLike; // [rank,in]
  b: TensorLike; // [out,midRank]
  mid?: TensorLike; // [midRank,rank] or [rank]
}

/** W + scale B M A, whole. */
export function adaptedWeight(inputs: DoraNormsInputs, scale = 1): Tensor64 {
  const { weight, a, b, mid } = inputs;
  const [out, inFeatures] = weight.shape;
  const [rank] = a.shape;
  const midRank = mid?.shape.length === 2 ? mid.shape[0] : rank;
  expectShape('a', a, [rank, inFeatures]);
  expectShape('b', b, [out, midRank]);
  const m = (j: number, k: number): number => {
    if (!mid) return j === k ? 1 : 0;
    if (mid.shape.length === 2) return mid.data[j * rank + k];
    return j === k ? mid.data[k] : 0;
  };
  const sum = zeros(weight.shape);
  for (let i = 0; i < out; i++) {
    for (let c = 0; c < inFeatures; c++) {
      let delta = 0;
      for (let j = 0; j < midRank; j++)
        for (let k = 0; k < rank; k++)
          delta += b.data[i * midRank + j] * m(j, k) * a.data[k * inFeatures + c];
      sum.data[i * inFeatures + c] = weight.data[i * inFeatures + c] + scale * delta;
    }
  }
  return sum;
}

export function doraNorms(inputs: DoraNormsInputs, { scale = 1 } = {}): { norms: Tensor64 } {
  const { data, shape } = adaptedWeight(inputs, scale);
  const norms = zeros([shape[0]]);
  for (let i = 0; i < shape[0]; i++)
    norms.data[i] = Math.hypot(...data.subarray(i * shape[1], (i + 1) * shape[1]));
  return { norms };
}
