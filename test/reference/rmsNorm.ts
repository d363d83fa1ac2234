/**
 * Root-mean-square norm over the last axis in float64:
 *   y = x / sqrt(mean x^2 + eps) * weight, and gated: y * act(gate), or x * act(gate) in place of x.
 */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, toFloat64, zeros } from '../support/tensor.ts';
import { sigmoid, silu, siluDerivative } from './activations.ts';

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

export interface RmsNormGatedOptions extends RmsNormOptions {
  activation?: 'silu' | 'sigmoid';
  /** Default true. */
  normBeforeGate?: boolean;
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

export function rmsNormGated(
  inputs: RmsNormGatedInputs,
  options: RmsNormGatedOptions = {},
): Tensor64 {
  const { x, gate } = inputs;
  const { value } = activationOf(options);
  if (options.normBeforeGate === false)
    return rmsNorm({ ...inputs, x: gated(x, gate, value) }, options);
  return gated(rmsNorm(inputs, options), gate, value);
}

export function rmsNormGatedBackward(
  inputs: RmsNormGatedInputs & { dY: TensorLike },
  options: RmsNormGatedOptions = {},
): RmsNormGradients & { dGate: Tensor64 } {
  const { x, gate, dY } = inputs;
  const { value, slope } = activationOf(options);
  if (options.normBeforeGate === false) {
    const grads = rmsNormBackward({ ...inputs, x: gated(x, gate, value) }, options);
    const dGate = gated(
      gated(grads.dx, x, (other) => other),
      gate,
      slope,
    );
    return { ...grads, dx: gated(grads.dx, gate, value), dGate };
  }
  const dNorm = gated(dY, gate, value);
  const dGate = gated(
    gated(dY, rmsNorm(inputs, options), (other) => other),
    gate,
    slope,
  );
  return { ...rmsNormBackward({ ...inputs, dY: dNorm }, options), dGate };
}

function activationOf({ activation = 'silu' }: RmsNormGatedOptions) {
  if (activation === 'silu') return { value: silu, slope: siluDerivative };
  return { value: sigmoid, slope: (x: number) => sigmoid(x) * sigmoid(-x) };
}

/** x * f(gate) */
function gated(x: TensorLike, gate: TensorLike, f: (gate: number) => number): Tensor64 {
  expectShape('gate', gate, x.shape);
  const y = toFloat64(x);
  for (let i = 0; i < y.data.length; i++) y.data[i] *= f(gate.data[i]);
  return y;
}

function inverseRms(x: TensorLike, row: number, D: number, eps: number): number {
  let squares = 0;
  for (let i = row; i < row + D; i++) squares += x.data[i] * x.data[i];
  return 1 / Math.sqrt(squares / D + eps);
}
