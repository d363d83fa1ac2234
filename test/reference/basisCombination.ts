/** sum = sum_i c_i Basis_i in float64, coefficients by heads over rows or columns; and RandLoRA's sum. */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, zeros } from '../support/tensor.ts';

export interface BasisInputs {
  coefficients: TensorLike; // [count] or [heads,count]
  bases: TensorLike; // [count,rows,columns]
}

export interface BasisOptions {
  headAxis?: 'rows' | 'columns';
}

/** visit(place in coefficients, place in bases, place in the sum) for every term. */
function eachTerm(
  { coefficients, bases }: BasisInputs,
  { headAxis = 'rows' }: BasisOptions,
  visit: (c: number, basis: number, at: number) => void,
): void {
  const [count, rows, columns] = bases.shape;
  const heads = coefficients.shape.length === 2 ? coefficients.shape[0] : 1;
  for (let i = 0; i < count; i++)
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < columns; c++) {
        const head = headAxis === 'rows' ? (r * heads) / rows : (c * heads) / columns;
        visit(Math.floor(head) * count + i, (i * rows + r) * columns + c, r * columns + c);
      }
}

export function basisCombination(
  inputs: BasisInputs,
  options: BasisOptions = {},
): { sum: Tensor64 } {
  const sum = zeros(inputs.bases.shape.slice(1));
  eachTerm(inputs, options, (c, basis, at) => {
    sum.data[at] += inputs.coefficients.data[c] * inputs.bases.data[basis];
  });
  return { sum };
}

export function basisCombinationBackward(
  inputs: BasisInputs & { dSum: TensorLike },
  options: BasisOptions = {},
): { dCoefficients: Tensor64; dBases: Tensor64 } {
  const { coefficients, bases, dSum } = inputs;
  const [dCoefficients, dBases] = [zeros(coefficients.shape), zeros(bases.shape)];
  eachTerm(inputs, options, (c, basis, at) => {
    dCoefficients.data[c] += bases.data[basis] * dSum.data[at];
    dBases.data[basis] += coefficients.data[c] * dSum.data[at];
  });
  return { dCoefficients, dBases };
}

export interface RandLoraInputs {
  a: TensorLike; // [rank,in] or [count,rank,in]
  b: TensorLike; // [count,out,rank]
  lambda: TensorLike; // [count,rank]
  gamma: TensorLike; // [count,in]
}

function eachProduct(
  { a, b, lambda, gamma }: RandLoraInputs,
  visit: (places: { ai: number; bi: number; l: number; g: number; at: number }) => void,
): void {
  const [count, out, rank] = b.shape;
  const inFeatures = a.shape[a.shape.length - 1];
  expectShape('lambda', lambda, [count, rank]);
  expectShape('gamma', gamma, [count, inFeatures]);
  for (let i = 0; i < count; i++)
    for (let o = 0; o < out; o++)
      for (let k = 0; k < rank; k++)
        for (let c = 0; c < inFeatures; c++)
          visit({
            ai: ((a.shape.length === 3 ? i : 0) * rank + k) * inFeatures + c,
            bi: (i * out + o) * rank + k,
            l: i * rank + k,
            g: i * inFeatures + c,
            at: o * inFeatures + c,
          });
}

export function randLora(inputs: RandLoraInputs, { scale = 1 } = {}): { delta: Tensor64 } {
  const { a, b, lambda, gamma } = inputs;
  const delta = zeros([b.shape[1], a.shape[a.shape.length - 1]]);
  eachProduct(inputs, ({ ai, bi, l, g, at }) => {
    delta.data[at] += scale * b.data[bi] * lambda.data[l] * a.data[ai] * gamma.data[g];
  });
  return { delta };
}

export function randLoraBackward(
  inputs: RandLoraInputs & { dDelta: TensorLike },
  { scale = 1 } = {},
): { dLambda: Tensor64; dGamma: Tensor64 } {
  const { a, b, lambda, gamma, dDelta } = inputs;
  const [dLambda, dGamma] = [zeros(lambda.shape), zeros(gamma.shape)];
  eachProduct(inputs, ({ ai, bi, l, g, at }) => {
    const d = scale * dDelta.data[at] * b.data[bi] * a.data[ai];
    dLambda.data[l] += d * gamma.data[g];
    dGamma.data[g] += d * lambda.data[l];
  });
  return { dLambda, dGamma };
}
