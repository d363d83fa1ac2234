/**
 * Softmax attention in float64, one query after the other, with all weights of a query at hand:
 *   o_i = sigmoid(gate_i) sum_j w_ij v_j,  w_ij = e^(s_ij) / (e^sink + sum_j e^(s_ij)),  s_ij = scale q_i . k_j,
 * capped as softcap tanh(s / softcap). Query i of a sequence stands at position i + S - T.
 */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, zeros } from '../support/tensor.ts';

export interface AttentionInputs {
  q: TensorLike; // [B,T,H,K]
  k: TensorLike; // [B,S,HKV,K]
  v: TensorLike; // [B,S,HKV,V]
  sinks?: TensorLike; // [H]
  gate?: TensorLike; // [B,T,H,V]
}

export interface AttentionGradientInputs extends AttentionInputs {
  dO: TensorLike; // [B,T,H,V]
  dLse?: TensorLike; // [B,T,H]
}

export interface AttentionOptions {
  causal?: boolean;
  window?: readonly [number, number];
  sinkTokens?: number;
  scale?: number;
  softcap?: number;
  cuSeqlens?: ArrayLike<number | bigint>;
  cuSeqlensK?: ArrayLike<number | bigint>;
}

export interface AttentionGradients {
  dq: Tensor64;
  dk: Tensor64;
  dv: Tensor64;
  dSinks?: Tensor64;
  dGate?: Tensor64;
}

/** One query of one head: where it stands in memory, the keys that it sees, its scores and weights. */
export interface Query {
  row: number; // of [B,T,H]
  head: number;
  keys: number[]; // rows of [B,S,HKV]
  raw: number[]; // scores before they are capped
  weights: number[];
  sinkWeight: number;
  lse: number;
}

function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x));
}

function sizesOf({ q, k, v, sinks, gate }: AttentionInputs) {
  const [B, T, H, K] = q.shape;
  const [, S, HKV] = k.shape;
  const V = v.shape[3];
  expectShape('k', k, [B, S, HKV, K]);
  expectShape('v', v, [B, S, HKV, V]);
  if (sinks) expectShape('sinks', sinks, [H]);
  if (gate) expectShape('gate', gate, [B, T, H, V]);
  return { B, T, S, H, HKV, K, V };
}

export function forEachQuery(
  inputs: AttentionInputs,
  options: AttentionOptions,
  visit: (query: Query) => void,
): void {
  const { q, k, sinks } = inputs;
  const { B, T, S, H, HKV, K } = sizesOf(inputs);
  const { causal = true, window = [Infinity, Infinity], sinkTokens = 0, softcap = 0 } = options;
  const scale = options.scale ?? 1 / Math.sqrt(K);
  const starts = (given: ArrayLike<number | bigint> | undefined, size: number): number[] =>
    given
      ? Array.from(given, Number)
      : Array.from({ length: B + 1 }, (_, sequence) => sequence * size);
  const atQ = starts(options.cuSeqlens, T);
  const atK = starts(options.cuSeqlensK ?? options.cuSeqlens, S);
  for (let n = 0; n + 1 < atQ.length; n++) {
    const [queries, count] = [atQ[n + 1] - atQ[n], atK[n + 1] - atK[n]];
    for (let i = 0; i < queries; i++)
      for (let head = 0; head < H; head++) {
        const position = i + count - queries;
        const row = (atQ[n] + i) * H + head;
        const keys: number[] = [];
        const raw: number[] = [];
        for (let j = 0; j < count; j++) {
          const inside = j >= position - window[0] && j <= position + window[1];
          if ((causal && j > position) || !(inside || j < sinkTokens)) continue;
          const key = (atK[n] + j) * HKV + Math.floor(head / (H / HKV));
          let sum = 0;
          for (let c = 0; c < K; c++) sum += q.data[row * K + c] * k.data[key * K + c];
          keys.push(key);
          raw.push(scale * sum);
        }
        const scores = raw.map((s) => (softcap > 0 ? softcap * Math.tanh(s / softcap) : s));
        const sink = sinks ? sinks.data[head] : -Infinity;
        const most = scores.reduce((a, b) => Math.max(a, b), sink);
        const parts = scores.map((s) => Math.exp(s - most));
        const sinkPart = sink === -Infinity ? 0 : Math.exp(sink - most);
        const total = parts.reduce((a, b) => a + b, sinkPart);
        visit({
          row,
          head,
          keys,
          raw,
          weights: parts.map((x) => x / total),
          sinkWeight: sinkPart && sinkPart / total,
          lse: total === 0 ? -Infinity : most + Math.log(total),
        });
      }
  }
}

function blend(v: TensorLike, V: number, { keys, weights }: Query, to: Float64Array, at: number) {
  keys.forEach((key, j) => {
    for (let c = 0; c < V; c++) to[at + c] += weights[j] * v.data[key * V + c];
  });
}

export function attention(
  inputs: AttentionInputs,
  options: AttentionOptions = {},
): { o: Tensor64; lse: Tensor64 } {
  const { B, T, H, V } = sizesOf(inputs);
  const o = zeros([B, T, H, V]);
  const lse = zeros([B, T, H]);
  forEachQuery(inputs, options, (query) => {
    const at = query.row * V;
    blend(inputs.v, V, query, o.data, at);
    lse.data[query.row] = query.lse;
    for (let c = 0; c < V && inputs.gate; c++) o.data[at + c] *= sigmoid(inputs.gate.data[at + c]);
  });
  return { o, lse };
}

export function attentionBackward(
  inputs: AttentionGradientInputs,
  options: AttentionOptions = {},
): AttentionGradients {
  const { q, k, v, sinks, gate, dO, dLse } = inputs;
  const { K, V } = sizesOf(inputs);
  const { softcap = 0 } = options;
  const scale = options.scale ?? 1 / Math.sqrt(K);
  const grads: AttentionGradients = {
    dq: zeros(q.shape),
    dk: zeros(k.shape),
    dv: zeros(v.shape),
  };
  if (sinks) grads.dSinks = zeros(sinks.shape);
  if (gate) grads.dGate = zeros(gate.shape);
  forEachQuery(inputs, options, (query) => {
    const { row, head, keys, raw, weights, sinkWeight } = query;
    const value = new Float64Array(V);
    blend(v, V, query, value, 0);
    const dValue = new Float64Array(V);
    for (let c = 0; c < V; c++) {
      const at = row * V + c;
      const open = gate ? sigmoid(gate.data[at]) : 1;
      dValue[c] = dO.data[at] * open;
      if (gate) grads.dGate!.data[at] = dO.data[at] * value[c] * open * (1 - open);
    }
    const dLevel = dLse ? dLse.data[row] : 0;
    let mean = 0;
    for (let c = 0; c < V; c++) mean += dValue[c] * value[c];
    if (sinks) grads.dSinks!.data[head] += sinkWeight * (dLevel - mean);
    keys.forEach((key, j) => {
      let dWeight = 0;
      for (let c = 0; c < V; c++) {
        dWeight += dValue[c] * v.data[key * V + c];
        grads.dv.data[key * V + c] += weights[j] * dValue[c];
      }
      let dScore = weights[j] * (dWeight - mean + dLevel);
      if (softcap > 0) dScore *= 1 - Math.tanh(raw[j] / softcap) ** 2;
      for (let c = 0; c < K; c++) {
        grads.dq.data[row * K + c] += scale * dScore * k.data[key * K + c];
        grads.dk.data[key * K + c] += scale * dScore * q.data[row * K + c];
      }
    });
  });
  return grads;
}
