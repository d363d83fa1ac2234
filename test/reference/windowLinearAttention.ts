/**
 * Softmax inside a window and linear attention before it under one normaliser, in float64, a query at a time with all
 * of its weights at hand (LoLCATs, arXiv:2410.10254): with c the largest score of the window,
 *   o_t = sum_i w_ti v_i / sum_i w_ti,  w_ti = gamma e^(scale q_t . k_i - c) inside, lambda phiQ_t . phiK_i before it,
 * gamma = sigmoid(factor), lambda = 1 or 1 - gamma. A state counts as keys before the sequence.
 */
import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, zeros } from '../support/tensor.ts';

export interface WindowLinearInputs {
  q: TensorLike; // [B,T,H,K]
  k: TensorLike; // [B,T,HKV,K]
  v: TensorLike; // [B,T,HKV,V]
  phiQ: TensorLike; // [B,T,H,F]
  phiK: TensorLike; // [B,T,HF,F]
  windowFactors?: TensorLike; // [H]
  initialState?: TensorLike; // [N,HF,F,V]
  initialZ?: TensorLike; // [N,HF,F]
}

export interface WindowLinearGradientInputs extends WindowLinearInputs {
  dO: TensorLike;
  dFinalState?: TensorLike;
  dFinalZ?: TensorLike;
}

export interface WindowLinearOptions {
  window?: number;
  terraced?: boolean;
  affine?: boolean;
  scale?: number;
  cuSeqlens?: ArrayLike<number | bigint>;
}

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

function sizesOf({ q, k, v, phiQ, phiK }: WindowLinearInputs, options: WindowLinearOptions) {
  const [B, T, H, K] = q.shape;
  const [HKV, V, F, HF] = [k.shape[2], v.shape[3], phiQ.shape[3], phiK.shape[2]];
  expectShape('k', k, [B, T, HKV, K]);
  expectShape('v', v, [B, T, HKV, V]);
  expectShape('phiQ', phiQ, [B, T, H, F]);
  expectShape('phiK', phiK, [B, T, HF, F]);
  const starts = options.cuSeqlens
    ? Array.from(options.cuSeqlens, Number)
    : Array.from({ length: B + 1 }, (_, i) => i * T);
  return { B, T, H, K, HKV, V, F, HF, starts, N: starts.length - 1 };
}

/** One query of one head: its keys with their scores and weights. */
interface Query {
  n: number;
  head: number;
  row: number; // of [B,T,H]
  first: number; // the first key of its window, of `keys`
  keys: number[]; // tokens, from the sequence's first to its own
  weights: number[];
  gamma: number;
  lambda: number;
  total: number;
}

function forEachQuery(
  inputs: WindowLinearInputs,
  options: WindowLinearOptions,
  visit: (query: Query) => void,
): void {
  const { q, k, phiQ, phiK, windowFactors, initialZ } = inputs;
  const { H, K, HKV, F, HF, starts, N } = sizesOf(inputs, options);
  const { window = 64, terraced, affine, scale = 1 / Math.sqrt(K) } = options;
  for (let n = 0; n < N; n++)
    for (let t = 0; t < starts[n + 1] - starts[n]; t++)
      for (let head = 0; head < H; head++) {
        const row = (starts[n] + t) * H + head;
        const first = Math.max(
          0,
          terraced ? (Math.floor(t / window) - 1) * window : t - window + 1,
        );
        const gamma = windowFactors ? sigmoid(windowFactors.data[head]) : 1;
        const lambda = affine ? 1 - gamma : 1;
        const keys = Array.from({ length: t + 1 }, (_, i) => starts[n] + i);
        const scores = keys.map((token, i) => {
          const inside = i >= first;
          const [a, b, width] = inside ? [q, k, K] : [phiQ, phiK, F];
          const heads = inside ? HKV : HF;
          const at = token * heads + Math.floor(head / (H / heads));
          let sum = 0;
          for (let c = 0; c < width; c++) sum += a.data[row * width + c] * b.data[at * width + c];
          return inside ? scale * sum : sum;
        });
        const most = Math.max(...scores.slice(first));
        const weights = scores.map((s, i) => (i < first ? lambda * s : gamma * Math.exp(s - most)));
        let total = weights.reduce((a, b) => a + b, 0);
        for (let c = 0; c < F && initialZ; c++)
          total +=
            lambda *
            phiQ.data[row * F + c] *
            initialZ.data[(n * HF + Math.floor(head / (H / HF))) * F + c];
        visit({ n, head, row, first, keys, weights, gamma, lambda, total });
      }
}

/** The weighted mean of the values that a query finds. */
function meanOf(
  inputs: WindowLinearInputs,
  { H, HKV, V, F, HF }: ReturnType<typeof sizesOf>,
  { n, head, row, keys, weights, lambda, total }: Query,
): Float64Array {
  const { v, phiQ, initialState } = inputs;
  const mean = new Float64Array(V);
  keys.forEach((token, i) => {
    const at = (token * HKV + Math.floor(head / (H / HKV))) * V;
    for (let c = 0; c < V; c++) mean[c] += (weights[i] * v.data[at + c]) / total;
  });
  for (let f = 0; f < F && initialState; f++) {
    const at = ((n * HF + Math.floor(head / (H / HF))) * F + f) * V;
    const x = (lambda * phiQ.data[row * F + f]) / total;
    for (let c = 0; c < V; c++) mean[c] += x * initialState.data[at + c];
  }
  return mean;
}

export function windowLinearAttention(
  inputs: WindowLinearInputs,
  options: WindowLinearOptions = {},
): { o: Tensor64; finalState: Tensor64; finalZ: Tensor64 } {
  const sizes = sizesOf(inputs, options);
  const { B, T, H, HKV, V, F, HF, N, starts } = sizes;
  const o = zeros([B, T, H, V]);
  forEachQuery(inputs, options, (query) => {
    o.data.set(meanOf(inputs, sizes, query), query.row * V);
  });
  const finalState = zeros([N, HF, F, V]);
  const finalZ = zeros([N, HF, F]);
  if (inputs.initialState) finalState.data.set(inputs.initialState.data);
  if (inputs.initialZ) finalZ.data.set(inputs.initialZ.data);
  for (let n = 0; n < N; n++)
    for (let token = starts[n]; token < starts[n + 1]; token++)
      for (let h = 0; h < HF; h++)
        for (let f = 0; f < F; f++) {
          const phi = inputs.phiK.data[(token * HF + h) * F + f];
          const value = (token * HKV + Math.floor(h / (HF / HKV))) * V;
          finalZ.data[(n * HF + h) * F + f] += phi;
          for (let c = 0; c < V; c++)
            finalState.data[((n * HF + h) * F + f) * V + c] += phi * inputs.v.data[value + c];
        }
  return { o, finalState, finalZ };
}

export function windowLinearAttentionBackward(
  inputs: WindowLinearGradientInputs,
  options: WindowLinearOptions = {},
): Record<string, Tensor64> {
  const { q, k, v, phiQ, phiK, windowFactors, initialState, initialZ, dO } = inputs;
  const sizes = sizesOf(inputs, options);
  const { H, K, HKV, V, F, HF, N, starts } = sizes;
  const scale = options.scale ?? 1 / Math.sqrt(K);
  const grads: Record<string, Tensor64> = {
    dq: zeros(q.shape),
    dk: zeros(k.shape),
    dv: zeros(v.shape),
    dPhiQ: zeros(phiQ.shape),
    dPhiK: zeros(phiK.shape),
  };
  if (windowFactors) grads.dWindowFactors = zeros(windowFactors.shape);
  if (initialState) {
    grads.dInitialState = zeros(initialState.shape);
    grads.dInitialZ = zeros(initialZ!.shape);
  }
  const { dq, dk, dv, dPhiQ, dPhiK } = grads;
  forEachQuery(inputs, options, (query) => {
    const { n, head, row, first, keys, weights, gamma, lambda, total } = query;
    const mean = meanOf(inputs, sizes, query);
    const dMean = (at: (c: number) => number): number => {
      let sum = 0;
      for (let c = 0; c < V; c++) sum += dO.data[row * V + c] * at(c);
      return sum / total;
    };
    const own = dMean((c) => mean[c]);
    const feature = Math.floor(head / (H / HF));
    const dScores = new Float64Array(keys.length);
    let dGamma = 0;
    let dLambda = 0;
    let dMost = 0;
    const alone = first === 0 && !initialState; // gamma cancels
    keys.forEach((token, i) => {
      const value = (token * HKV + Math.floor(head / (H / HKV))) * V;
      const dWeight = dMean((c) => v.data[value + c]) - own;
      for (let c = 0; c < V; c++) dv.data[value + c] += (weights[i] / total) * dO.data[row * V + c];
      if (i < first) {
        dLambda += (dWeight * weights[i]) / (lambda || 1);
        const at = (token * HF + feature) * F;
        for (let c = 0; c < F; c++) {
          dPhiQ.data[row * F + c] += dWeight * lambda * phiK.data[at + c];
          dPhiK.data[at + c] += dWeight * lambda * phiQ.data[row * F + c];
        }
      } else {
        if (!alone) dGamma += (dWeight * weights[i]) / gamma;
        dMost -= dWeight * weights[i];
        dScores[i] = dWeight * weights[i];
      }
    });
    for (let f = 0; f < F && initialState; f++) {
      const at = (n * HF + feature) * F + f;
      const phi = phiQ.data[row * F + f];
      const found = dMean((c) => initialState.data[at * V + c]) - own * initialZ!.data[at];
      dLambda += found * phi;
      dPhiQ.data[row * F + f] += lambda * found;
      grads.dInitialZ.data[at] -= lambda * phi * own;
      for (let c = 0; c < V; c++)
        grads.dInitialState.data[at * V + c] += (lambda * phi * dO.data[row * V + c]) / total;
    }
    // The largest weight is gamma: where several are, each has an equal share of what c receives.
    const largest = keys.map((_, i) => i).filter((i) => i >= first && weights[i] === gamma);
    for (const i of largest) dScores[i] += dMost / largest.length;
    for (let i = first; i < keys.length; i++) {
      const at = (keys[i] * HKV + Math.floor(head / (H / HKV))) * K;
      for (let c = 0; c < K; c++) {
        dq.data[row * K + c] += scale * dScores[i] * k.data[at + c];
        dk.data[at + c] += scale * dScores[i] * q.data[row * K + c];
      }
    }
    if (windowFactors)
      grads.dWindowFactors.data[head] +=
        gamma * (1 - gamma) * (dGamma - (options.affine ? dLambda : 0));
  });
  for (let n = 0; n < N; n++)
    for (let h = 0; h < HF; h++)
      for (let f = 0; f < F; f++) {
        const at = (n * HF + h) * F + f;
        const state = (c: number) => inputs.dFinalState?.data[at * V + c] ?? 0;
        const z = inputs.dFinalZ?.data[at] ?? 0;
        for (let token = starts[n]; token < starts[n + 1]; token++) {
          const value = (token * HKV + Math.floor(h / (HF / HKV))) * V;
          const phi = (token * HF + h) * F + f;
          dPhiK.data[phi] += z;
          for (let c = 0; c < V; c++) {
            dPhiK.data[phi] += state(c) * v.data[value + c];
            dv.data[value + c] += state(c) * phiK.data[phi];
          }
        }
        if (!initialState) continue;
        grads.dInitialZ.data[at] += z;
        for (let c = 0; c < V; c++) grads.dInitialState.data[at * V + c] += state(c);
      }
  return grads;
}
