/** out[..., :] = weight[indices[...], :] in float64; the backward adds rows of equal index. */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { zeros } from '../support/tensor.ts';

export interface EmbeddingInputs {
  weight: TensorLike; // [vocabulary,D]
  indices: TensorLike; // [...], integers
}

export function embedding({ weight, indices }: EmbeddingInputs): Tensor64 {
  const [vocabulary, D] = weight.shape;
  const out = zeros([...indices.shape, D]);
  for (let row = 0; row < indices.data.length; row++) {
    const from = rowOf(indices.data[row], vocabulary) * D;
    for (let i = 0; i < D; i++) out.data[row * D + i] = weight.data[from + i];
  }
  return out;
}

export function embeddingBackward({
  weight,
  indices,
  dOut,
}: EmbeddingInputs & { dOut: TensorLike }): { dWeight: Tensor64 } {
  const [vocabulary, D] = weight.shape;
  const dWeight = zeros(weight.shape);
  for (let row = 0; row < indices.data.length; row++) {
    const to = rowOf(indices.data[row], vocabulary) * D;
    for (let i = 0; i < D; i++) dWeight.data[to + i] += dOut.data[row * D + i];
  }
  return { dWeight };
}

function rowOf(index: number, vocabulary: number): number {
  if (!Number.isInteger(index) || index < 0 || index >= vocabulary) {
    throw new RangeError(`index ${index} outside [0, ${vocabulary})`);
  }
  return index;
}
