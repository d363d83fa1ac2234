/**
 * Activations that may be fused into the recurrence, each with its backward, in float64.
 * qkL2norm: y = x / sqrt(sum x^2 + 1e-6) over the last axis.
 * gate: g = -exp(aLog) softplus(x + dtBias); with lowerBound L,
 *   g = L sigmoid(exp(aLog) (x + dtBias)).
 * beta: sigmoid(x), or 2 sigmoid(x).
 */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, toFloat64, zeros } from '../support/tensor.ts';

export type BetaActivation = 'none' | 'sigmoid' | 'sigmoid2';

export interface FusedGate {
  aLog: TensorLike; // [HV]
  dtBias?: TensorLike; // [HV] for g [B,T,HV], [HV,K] for g [B,T,HV,K]
  lowerBound?: number;
}

export interface FusedGateGradients {
  dg: Tensor64;
  dALog: Tensor64;
  dDtBias?: Tensor64;
}

const L2_EPSILON = 1e-6;

export function sigmoid(x: number): number {
  return x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x));
}

export function softplus(x: number): number {
  return x > 0 ? x + Math.log1p(Math.exp(-x)) : Math.log1p(Math.exp(x));
}

export function silu(x: number): number {
  return x * sigmoid(x);
}

export function siluDerivative(x: number): number {
  const s = sigmoid(x);
  return s * (1 + x * (1 - s));
}

export function l2norm(x: TensorLike, eps = L2_EPSILON): Tensor64 {
  const out = toFloat64(x);
  const width = x.shape[x.shape.length - 1];
  for (let row = 0; row < out.data.length; row += width) {
    const values = out.data.subarray(row, row + width);
    const norm = Math.sqrt(values.reduce((sum, value) => sum + value * value, eps));
    for (let i = 0; i < width; i++) values[i] /= norm;
  }
  return out;
}

export function l2normBackward(x: TensorLike, dy: TensorLike, eps = L2_EPSILON): Tensor64 {
  const dx = zeros(x.shape);
  const width = x.shape[x.shape.length - 1];
  for (let row = 0; row < dx.data.length; row += width) {
    let squares = eps;
    let projection = 0;
    for (let i = row; i < row + width; i++) {
      squares += x.data[i] * x.data[i];
      projection += x.data[i] * dy.data[i];
    }
    const norm = Math.sqrt(squares);
    for (let i = row; i < row + width; i++) {
      dx.data[i] = (dy.data[i] - (x.data[i] * projection) / squares) / norm;
    }
  }
  return dx;
}

export function fusedGate(g: TensorLike, gate: FusedGate): Tensor64 {
  const out = zeros(g.shape);
  forEachGate(g, gate, (i, head, _bias, x) => {
    const rate = Math.exp(gate.aLog.data[head]);
    out.data[i] =
      gate.lowerBound === undefined ? -rate * softplus(x) : gate.lowerBound * sigmoid(rate * x);
  });
  return out;
}

export function fusedGateBackward(
  g: TensorLike,
  gate: FusedGate,
  dOut: TensorLike,
): FusedGateGradients {
  const result: FusedGateGradients = { dg: zeros(g.shape), dALog: zeros(gate.aLog.shape) };
  if (gate.dtBias) result.dDtBias = zeros(gate.dtBias.shape);
  forEachGate(g, gate, (i, head, bias, x) => {
    // A reset has no gradient, and its raw gate may be infinite: 0 * Infinity must not appear.
    const upstream = dOut.data[i];
    if (upstream === 0) return;
    const rate = Math.exp(gate.aLog.data[head]);
    let dx: number;
    let dALog: number;
    if (gate.lowerBound === undefined) {
      dx = -rate * sigmoid(x) * upstream;
      dALog = -rate * softplus(x) * upstream;
    } else {
      const s = sigmoid(rate * x);
      const slope = gate.lowerBound * s * (1 - s) * rate;
      dx = slope * upstream;
      dALog = slope * x * upstream;
    }
    result.dg.data[i] = dx;
    result.dALog.data[head] += dALog;
    if (result.dDtBias) result.dDtBias.data[bias] += dx;
  });
  return result;
}

export function betaActivate(beta: TensorLike, kind: BetaActivation): Tensor64 {
  const out = toFloat64(beta);
  if (kind === 'none') return out;
  const factor = kind === 'sigmoid2' ? 2 : 1;
  for (let i = 0; i < out.data.length; i++) out.data[i] = factor * sigmoid(out.data[i]);
  return out;
}

export function betaActivateBackward(
  beta: TensorLike,
  kind: BetaActivation,
  dOut: TensorLike,
): Tensor64 {
  const dBeta = toFloat64(dOut);
  if (kind === 'none') return dBeta;
  const factor = kind === 'sigmoid2' ? 2 : 1;
  for (let i = 0; i < dBeta.data.length; i++) {
    const s = sigmoid(beta.data[i]);
    dBeta.data[i] *= factor * s * (1 - s);
  }
  return dBeta;
}

function forEachGate(
  g: TensorLike,
  gate: FusedGate,
  visit: (index: number, head: number, bias: number, x: number) => void,
): void {
  const rank = g.shape.length;
  if (rank !== 3 && rank !== 4) throw new RangeError(`gate: g must have rank 3 or 4, got ${rank}`);
  const heads = g.shape[2];
  const width = rank === 4 ? g.shape[3] : 1;
  expectShape('aLog', gate.aLog, [heads]);
  if (gate.dtBias) expectShape('dtBias', gate.dtBias, g.shape.slice(2));
  const period = heads * width;
  for (let i = 0; i < g.data.length; i++) {
    const bias = i % period;
    const x = g.data[i] + (gate.dtBias ? gate.dtBias.data[bias] : 0);
    visit(i, Math.floor(bias / width), bias, x);
  }
}
