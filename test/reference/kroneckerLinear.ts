/** y = addend + scale x (sum_i A_i (x) B_i)^T in float64, with the matrix formed. */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { sizeOf, toFloat64, zeros } from '../support/tensor.ts';

export interface KroneckerInputs {
  x: TensorLike; // [...,inA*inB]
  a: TensorLike; // [outA,inA] or [terms,outA,inA]
  b: TensorLike; // [outB,inB] or [terms,outB,inB]
  addend?: TensorLike; // [...,outA*outB]
}

/** Calls visit(row, column, place in a, place in b) for every term of every element of the matrix. */
function each(
  a: TensorLike,
  b: TensorLike,
  visit: (row: number, column: number, ai: number, bi: number) => void,
): { out: number; inFeatures: number } {
  const [outA, inA] = a.shape.slice(-2);
  const [outB, inB] = b.shape.slice(-2);
  const terms = a.shape.length === 3 ? a.shape[0] : 1;
  for (let i = 0; i < terms; i++)
    for (let p = 0; p < outA; p++)
      for (let q = 0; q < outB; q++)
        for (let j = 0; j < inA; j++)
          for (let k = 0; k < inB; k++)
            visit(p * outB + q, j * inB + k, (i * outA + p) * inA + j, (i * outB + q) * inB + k);
  return { out: outA * outB, inFeatures: inA * inB };
}

function matrix(a: TensorLike, b: TensorLike): Tensor64 {
  const [[outA, inA], [outB, inB]] = [a, b].map(({ shape }) => shape.slice(-2));
  const w = zeros([outA * outB, inA * inB]);
  each(a, b, (row, column, ai, bi) => {
    w.data[row * w.shape[1] + column] += a.data[ai] * b.data[bi];
  });
  return w;
}

export function kroneckerLinear(
  { x, a, b, addend }: KroneckerInputs,
  { scale = 1 } = {},
): { y: Tensor64 } {
  const w = matrix(a, b);
  const [out, inFeatures] = w.shape;
  const lead = x.shape.slice(0, -1);
  const y = addend ? toFloat64(addend) : zeros([...lead, out]);
  for (let m = 0; m < sizeOf(lead); m++)
    for (let i = 0; i < out; i++)
      for (let j = 0; j < inFeatures; j++)
        y.data[m * out + i] += scale * w.data[i * inFeatures + j] * x.data[m * inFeatures + j];
  return { y };
}

export function kroneckerLinearBackward(
  { x, a, b, dY }: KroneckerInputs & { dY: TensorLike },
  { scale = 1 } = {},
): { dx: Tensor64; da: Tensor64; db: Tensor64 } {
  const w = matrix(a, b);
  const [out, inFeatures] = w.shape;
  const dW = zeros(w.shape);
  const dx = zeros(x.shape);
  for (let m = 0; m < sizeOf(x.shape.slice(0, -1)); m++)
    for (let i = 0; i < out; i++)
      for (let j = 0; j < inFeatures; j++) {
        const [d, xi] = [scale * dY.data[m * out + i], m * inFeatures + j];
        dW.data[i * inFeatures + j] += d * x.data[xi];
        dx.data[xi] += d * w.data[i * inFeatures + j];
      }
  const [da, db] = [zeros(a.shape), zeros(b.shape)];
  each(a, b, (row, column, ai, bi) => {
    const d = dW.data[row * inFeatures + column];
    da.data[ai] += d * b.data[bi];
    db.data[bi] += d * a.data[ai];
  });
  return { dx, da, db };
}
