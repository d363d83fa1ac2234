/**
 * Mamba-2 (SSD) in float64, on the grid's token gate with the additive update:
 *   d = clamp(softplus?(dt + dtBias), dtLimit);  q = C, k = B, v = d x, g = d A, scale 1;
 *   y = o + D x.
 */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, zeros } from '../support/tensor.ts';
import { sigmoid, softplus } from './activations.ts';
import type { RecurrenceInputs, RecurrenceOptions } from './recurrence.ts';
import { backward, forward } from './recurrence.ts';

export interface Mamba2Inputs {
  x: TensorLike; // [B,T,HV,P]
  dt: TensorLike; // [B,T,HV]
  A: TensorLike; // [HV]
  B: TensorLike; // [B,T,G,N]
  C: TensorLike; // [B,T,G,N]
  D?: TensorLike; // [HV]
  dtBias?: TensorLike; // [HV]
  initialState?: TensorLike; // [B,HV,N,P]
}

export interface Mamba2GradientInputs extends Mamba2Inputs {
  dY: TensorLike; // [B,T,HV,P]
  dFinalState?: TensorLike; // [B,HV,N,P]
}

export interface Mamba2Options {
  dtSoftplus?: boolean;
  dtLimit?: readonly [number, number];
  cuSeqlens?: ArrayLike<number>;
}

export interface Mamba2Gradients {
  dx: Tensor64;
  ddt: Tensor64;
  dA: Tensor64;
  dB: Tensor64;
  dC: Tensor64;
  dD?: Tensor64;
  dDtBias?: Tensor64;
  dInitialState: Tensor64;
}

export function mamba2(
  inputs: Mamba2Inputs,
  options: Mamba2Options = {},
): { y: Tensor64; finalState: Tensor64 } {
  const { x, D } = inputs;
  const { o: y, finalState } = forward(toGrid(inputs, options), gridOptions(options));
  if (D) {
    const [, , HV, P] = x.shape;
    for (let i = 0; i < y.data.length; i++) {
      y.data[i] += D.data[Math.floor(i / P) % HV] * x.data[i];
    }
  }
  return { y, finalState };
}

export function mamba2Backward(
  inputs: Mamba2GradientInputs,
  options: Mamba2Options = {},
): Mamba2Gradients {
  const { x, dt, A, D, dtBias, dY, dFinalState } = inputs;
  const [, , HV, P] = x.shape;
  const grid = backward(
    { ...toGrid(inputs, options), dO: dY, ...(dFinalState && { dFinalState }) },
    gridOptions(options),
  );
  const steps = timeSteps(inputs, options).data;
  const result: Mamba2Gradients = {
    dx: zeros(x.shape),
    ddt: zeros(dt.shape),
    dA: zeros(A.shape),
    dB: grid.dk,
    dC: grid.dq,
    dInitialState: grid.dInitialState,
  };
  if (D) result.dD = zeros(D.shape);
  if (dtBias) result.dDtBias = zeros(dtBias.shape);
  const dv = grid.dv.data;
  const dg = grid.dg!.data;
  for (let row = 0; row < steps.length; row++) {
    const h = row % HV;
    let dStep = A.data[h] * dg[row];
    result.dA.data[h] += steps[row] * dg[row];
    for (let i = row * P; i < (row + 1) * P; i++) {
      dStep += x.data[i] * dv[i];
      result.dx.data[i] = steps[row] * dv[i] + (D ? D.data[h] * dY.data[i] : 0);
      if (result.dD) result.dD.data[h] += x.data[i] * dY.data[i];
    }
    const dRaw = dStep * stepSlope(dt.data[row] + (dtBias ? dtBias.data[h] : 0), options);
    result.ddt.data[row] = dRaw;
    if (result.dDtBias) result.dDtBias.data[h] += dRaw;
  }
  return result;
}

function gridOptions({ cuSeqlens }: Mamba2Options): RecurrenceOptions {
  return { scale: 1, ...(cuSeqlens && { cuSeqlens }) };
}

function toGrid(inputs: Mamba2Inputs, options: Mamba2Options): RecurrenceInputs {
  const { x, A, B, C, initialState } = inputs;
  const [, , HV, P] = x.shape;
  const steps = timeSteps(inputs, options);
  const v = zeros(x.shape);
  for (let i = 0; i < v.data.length; i++) {
    v.data[i] = steps.data[Math.floor(i / P)] * x.data[i];
  }
  const g = zeros(steps.shape);
  for (let i = 0; i < g.data.length; i++) g.data[i] = steps.data[i] * A.data[i % HV];
  return { q: C, k: B, v, g, ...(initialState && { initialState }) };
}

function timeSteps({ x, dt, A, dtBias }: Mamba2Inputs, options: Mamba2Options): Tensor64 {
  const [, , HV] = x.shape;
  expectShape('dt', dt, x.shape.slice(0, 3));
  expectShape('A', A, [HV]);
  const [low, high] = options.dtLimit ?? [0, Infinity];
  const steps = zeros(dt.shape);
  for (let i = 0; i < steps.data.length; i++) {
    const raw = dt.data[i] + (dtBias ? dtBias.data[i % HV] : 0);
    const step = options.dtSoftplus ? softplus(raw) : raw;
    steps.data[i] = Math.min(Math.max(step, low), high);
  }
  return steps;
}

/** Derivative of the time step by its raw value; zero where the limit holds it. */
function stepSlope(raw: number, options: Mamba2Options): number {
  const [low, high] = options.dtLimit ?? [0, Infinity];
  const step = options.dtSoftplus ? softplus(raw) : raw;
  if (step < low || step > high) return 0;
  return options.dtSoftplus ? sigmoid(raw) : 1;
}
