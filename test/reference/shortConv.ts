/**
 * Causal depthwise convolution in float64:
 *   y[t,d] = act(bias[d] + sum_w weight[d,w] x[t - (W-1) + w, d]),
 * so that weight[d,W-1] meets the current token. Inputs before t = 0 come from initialState, whose
 * columns are the W-1 latest inputs, oldest first; finalState continues it. Packed sequences are calls of their own.
 */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, zeros } from '../support/tensor.ts';
import { silu, siluDerivative } from './activations.ts';

export interface ShortConvInputs {
  x: TensorLike; // [B,T,D]
  weight: TensorLike; // [D,W]
  bias?: TensorLike; // [D]
  initialState?: TensorLike; // [N,D,W-1]
}

export interface ShortConvGradientInputs extends ShortConvInputs {
  dY: TensorLike; // [B,T,D]
  dFinalState?: TensorLike; // [N,D,W-1]
}

export interface ShortConvOptions {
  activation?: 'none' | 'silu';
  cuSeqlens?: ArrayLike<number | bigint>;
}

export interface ShortConvGradients {
  dx: Tensor64;
  dWeight: Tensor64;
  dBias?: Tensor64;
  dInitialState: Tensor64;
}

export function shortConv(
  inputs: ShortConvInputs,
  { activation = 'none', cuSeqlens }: ShortConvOptions = {},
): { y: Tensor64; finalState: Tensor64 } {
  if (cuSeqlens) {
    const parts = sequences(inputs, cuSeqlens).map((one) => shortConv(one, { activation }));
    return {
      y: joined(
        parts.map((p) => p.y),
        1,
      ),
      finalState: joined(
        parts.map((p) => p.finalState),
        0,
      ),
    };
  }
  const { B, T, D, W } = sizes(inputs);
  const y = zeros([B, T, D]);
  const finalState = zeros([B, D, W - 1]);
  forEachChannel(inputs, (b, d, line) => {
    for (let t = 0; t < T; t++) {
      const sum = convolve(inputs, line, t, d);
      y.data[(b * T + t) * D + d] = activation === 'silu' ? silu(sum) : sum;
    }
    finalState.data.set(line.subarray(T), (b * D + d) * (W - 1));
  });
  return { y, finalState };
}

export function shortConvBackward(
  inputs: ShortConvGradientInputs,
  { activation = 'none', cuSeqlens }: ShortConvOptions = {},
): ShortConvGradients {
  if (cuSeqlens) {
    const parts = sequences(inputs, cuSeqlens).map((one) => shortConvBackward(one, { activation }));
    return {
      dx: joined(
        parts.map((p) => p.dx),
        1,
      ),
      dWeight: total(parts.map((p) => p.dWeight)),
      ...(inputs.bias && { dBias: total(parts.map((p) => p.dBias!)) }),
      dInitialState: joined(
        parts.map((p) => p.dInitialState),
        0,
      ),
    };
  }
  const { weight, bias, dY, dFinalState } = inputs;
  const { B, T, D, W } = sizes(inputs);
  const grads: ShortConvGradients = {
    dx: zeros([B, T, D]),
    dWeight: zeros([D, W]),
    dInitialState: zeros([B, D, W - 1]),
  };
  if (bias) grads.dBias = zeros([D]);
  forEachChannel(inputs, (b, d, line) => {
    const dLine = new Float64Array(line.length);
    const state = (b * D + d) * (W - 1);
    for (let i = 0; i < W - 1 && dFinalState; i++) dLine[T + i] = dFinalState.data[state + i];
    for (let t = 0; t < T; t++) {
      let dSum = dY.data[(b * T + t) * D + d];
      if (activation === 'silu') dSum *= siluDerivative(convolve(inputs, line, t, d));
      if (grads.dBias) grads.dBias.data[d] += dSum;
      for (let w = 0; w < W; w++) {
        grads.dWeight.data[d * W + w] += dSum * line[t + w];
        dLine[t + w] += dSum * weight.data[d * W + w];
      }
    }
    grads.dInitialState.data.set(dLine.subarray(0, W - 1), state);
    for (let t = 0; t < T; t++) grads.dx.data[(b * T + t) * D + d] = dLine[W - 1 + t];
  });
  return grads;
}

/** The inputs of each packed sequence. */
function sequences<I extends ShortConvInputs & Partial<ShortConvGradientInputs>>(
  inputs: I,
  cuSeqlens: ArrayLike<number | bigint>,
): I[] {
  const D = inputs.x.shape[2];
  const at = Array.from(cuSeqlens, Number);
  return at.slice(1).map((end, n) => {
    const tokens = (of: TensorLike): TensorLike => ({
      data: Array.from(of.data).slice(at[n] * D, end * D),
      shape: [1, end - at[n], D],
    });
    const state = (of: TensorLike): TensorLike => {
      const size = D * of.shape[2];
      const data = Array.from(of.data).slice(n * size, (n + 1) * size);
      return { data, shape: [1, D, of.shape[2]] };
    };
    const { x, dY, initialState, dFinalState } = inputs;
    return {
      ...inputs,
      x: tokens(x),
      ...(dY && { dY: tokens(dY) }),
      ...(initialState && { initialState: state(initialState) }),
      ...(dFinalState && { dFinalState: state(dFinalState) }),
    };
  });
}

function joined(parts: Tensor64[], axis: number): Tensor64 {
  const shape = [...parts[0].shape];
  shape[axis] = parts.reduce((sum, p) => sum + p.shape[axis], 0);
  return { data: Float64Array.from(parts.flatMap((p) => [...p.data])), shape };
}

function total(parts: Tensor64[]): Tensor64 {
  const data = parts[0].data.map((_, i) => parts.reduce((sum, p) => sum + p.data[i], 0));
  return { data, shape: parts[0].shape };
}

function sizes(inputs: ShortConvInputs): { B: number; T: number; D: number; W: number } {
  const [B, T, D] = inputs.x.shape;
  const W = inputs.weight.shape[1];
  expectShape('weight', inputs.weight, [D, W]);
  if (inputs.bias) expectShape('bias', inputs.bias, [D]);
  if (inputs.initialState) expectShape('initialState', inputs.initialState, [B, D, W - 1]);
  return { B, T, D, W };
}

/** Visits every channel with its whole line of inputs: the carried W-1, then the T new ones. */
function forEachChannel(
  inputs: ShortConvInputs,
  visit: (b: number, d: number, line: Float64Array) => void,
): void {
  const { B, T, D, W } = sizes(inputs);
  for (let b = 0; b < B; b++) {
    for (let d = 0; d < D; d++) {
      const line = new Float64Array(W - 1 + T);
      const state = (b * D + d) * (W - 1);
      for (let i = 0; i < W - 1 && inputs.initialState; i++) {
        line[i] = inputs.initialState.data[state + i];
      }
      for (let t = 0; t < T; t++) line[W - 1 + t] = inputs.x.data[(b * T + t) * D + d];
      visit(b, d, line);
    }
  }
}

function convolve(
  { weight, bias }: ShortConvInputs,
  line: Float64Array,
  t: number,
  d: number,
): number {
  const W = weight.shape[1];
  let sum = bias ? bias.data[d] : 0;
  for (let w = 0; w < W; w++) sum += weight.data[d * W + w] * line[t + w];
  return sum;
}
