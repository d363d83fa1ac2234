/**
 * Root-mean-square norm over the last axis in float64:
 *   y = x / sqrt(mean x^2 + eps) * weight, and gated: y * silu(gate).
 */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, toFloat64, zeros } from '../support/tensor.ts';
import { silu, siluDerivative } from './activations.ts';

export interface RmsNormInputs {
  x: TensorLike; // [...,D]
  weight?: TensorLike; // [D]
}

export interface RmsNormGatedInputs extends RmsNormInputs {
  gate: TensorLike; // [...,D]
}

export interface RmsNormOptions {
  /** Default 1e-6. */
  eps?: number;
}

export interface RmsNormGradients {
  dx: Tensor64;
  dWeight?: Tensor64;
}

export function rmsNorm(
  { x, weight }: RmsNormInputs,
  { eps = 1e-6 }: RmsNormOptions = {},
): Tensor64 {
  const D = x.shape[x.shape.length - 1];
  if (weight) expectShape('weight', weight, [D]);
  const y = toFloat64(x);
  for (let row = 0; row < y.data.length; row += D) {
    const factor = inverseRms(x, row, D, eps);
    for (let i = 0; i < D; i++) y.data[row + i] *= factor * (weight ? weight.data[i] : 1);
  }
  return y;
}

export function rmsNormBackward(
  { x, weight, dY }: RmsNormInputs & { dY: TensorLike },
  { eps = 1e-6 }: RmsNormOptions = {},
): RmsNormGradients {
  expectShape('dY', dY, x.shape);
  const D = x.shape[x.shape.length - 1];
  const grads: RmsNormGradients = { dx: zeros(x.shape) };
  if (weight) grads.dWeight = zeros([D]);
  for (let row = 0; row < x.data.length; row += D) {
    const factor = inverseRms(x, row, D, eps);
    let projection = 0;
    for (let i = 0; i < D; i++) {
      const d = dY.data[row + i];
      projection += d * (weight ? weight.data[i] : 1) * x.data[row + i];
      if (grads.dWeight) grads.dWeight.data[i] += d * x.data[row + i] * factor;
    }
    for (let i = 0; i < D; i++) {
      const d = dY.data[row + i] * (weight ? weight.data[i] : 1);
      grads.dx.data[row + i] = factor * (d - (x.data[row + i] * projection * factor ** 2) / D);
    }
  }
  return grads;
}

export function rmsNormGated(inputs: RmsNormGatedInputs, options: RmsNormOptions = {}): Tensor64 {
  expectShape('gate', inputs.gate, inputs.x.shape);
  const y = rmsNorm(inputs, options);
  for (let i = 0; i < y.data.length; i++) y.data[i] *= silu(inputs.gate.data[i]);
  return y;
}

export function rmsNormGatedBackward(
  inputs: RmsNormGatedInputs & { dY: TensorLike },
  options: RmsNormOptions = {},
): RmsNormGradients & { dGate: Tensor64 } {
  const { x, gate, dY } = inputs;
  const norm = rmsNorm(inputs, options);
  const dNorm = zeros(x.shape);
  const dGate = zeros(x.shape);
  for (let i = 0; i < dNorm.data.length; i++) {
    dNorm.data[i] = dY.data[i] * silu(gate.data[i]);
    dGate.data[i] = dY.data[i] * norm.data[i] * siluDerivative(gate.data[i]);
  }
  return { ...rmsNormBackward({ ...inputs, dY: dNorm }, options), dGate };
}

function inverseRms(x: TensorLike, row: number, D: number, eps: number): number {
  let squares = 0;
  for (let i = row; i < row + D; i++) squares += x.data[i] * x.data[i];
  return 1 / Math.sqrt(squares / D + eps);
}
