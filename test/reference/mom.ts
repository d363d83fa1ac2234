/**
 * Mixture-of-memories in float64 (arXiv:2502.13685): each token goes to the k memories with the largest logits, weighted
 * by the softmax of its logits; its entries stand by memory, sequence and time. Written token by token, with lists.
 */
import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { sizeOf, zeros } from '../support/tensor.ts';

export interface MomRouteOptions {
  topK?: number;
  renormalize?: boolean;
  cuSeqlens?: ArrayLike<number | bigint>;
}

interface Chosen {
  memories: number[];
  /** Of all memories, before any are left out; of those that the weights are relative to, else 0. */
  shares: number[];
}

function choose(
  logits: TensorLike,
  token: number,
  { topK, renormalize = true }: MomRouteOptions,
): Chosen {
  const M = logits.shape[2];
  const k = topK ?? Math.min(2, M);
  const row = Array.from({ length: M }, (_, m) => Number(logits.data[token * M + m]));
  const size = (x: number) => (Number.isNaN(x) ? Number.POSITIVE_INFINITY : x);
  const all = row.map((_, m) => m);
  const memories = all
    .sort((a, b) => {
      if (Number.isNaN(row[a]) !== Number.isNaN(row[b])) return Number.isNaN(row[a]) ? -1 : 1;
      if (Number.isNaN(row[a]) || row[a] === row[b]) return a - b;
      return size(row[b]) > size(row[a]) ? 1 : -1;
    })
    .slice(0, k);
  const most = row[memories[0]];
  const powers = row.map((x, m) => (renormalize && !memories.includes(m) ? 0 : Math.exp(x - most)));
  const total = powers.reduce((a, b) => a + b, 0);
  return { memories, shares: powers.map((p) => p / total) };
}

export function momRoute({ logits }: { logits: TensorLike }, options: MomRouteOptions = {}) {
  const [B, T, M] = logits.shape;
  const k = options.topK ?? Math.min(2, M);
  const starts = options.cuSeqlens
    ? Array.from(options.cuSeqlens, Number)
    : Array.from({ length: B + 1 }, (_, n) => n * T);
  const N = starts.length - 1;
  const weights: number[] = [];
  const memories: number[] = [];
  const lists: number[][] = Array.from({ length: M * N }, () => []);
  for (let n = 0; n < N; n++)
    for (let token = starts[n]; token < starts[n + 1]; token++) {
      const chosen = choose(logits, token, options);
      chosen.memories.forEach((m, j) => {
        lists[m * N + n].push(token * k + j);
        weights[token * k + j] = chosen.shares[m];
        memories[token * k + j] = m;
      });
    }
  const order = lists.flat();
  const slots: number[] = [];
  order.forEach((entry, at) => {
    slots[entry] = at;
  });
  const cuSeqlens = [0];
  for (const list of lists) cuSeqlens.push(cuSeqlens[cuSeqlens.length - 1] + list.length);
  const tensor = (data: number[], shape: number[]) => ({ data: Float64Array.from(data), shape });
  return {
    weights: tensor(weights, [B, T, k]),
    memories: tensor(memories, [B, T, k]),
    order: tensor(order, [order.length]),
    slots: tensor(slots, [B, T, k]),
    cuSeqlens: tensor(cuSeqlens, [cuSeqlens.length]),
  };
}

export function momRouteBackward(
  { logits, dWeights }: { logits: TensorLike; dWeights: TensorLike },
  options: MomRouteOptions = {},
): { dLogits: Tensor64 } {
  const [B, T, M] = logits.shape;
  const dLogits = zeros(logits.shape);
  for (let token = 0; token < B * T; token++) {
    const { memories, shares } = choose(logits, token, options);
    const dShares = new Float64Array(M);
    memories.forEach((m, j) => {
      dShares[m] = Number(dWeights.data[token * memories.length + j]);
    });
    for (let m = 0; m < M; m++)
      for (let i = 0; i < M; i++)
        dLogits.data[token * M + m] += dShares[i] * shares[i] * ((i === m ? 1 : 0) - shares[m]);
  }
  return { dLogits };
}

/** [B,T,...] and [1,B T k,...]. */
const inner = (x: TensorLike) => x.shape.slice(2);

export function momGather({ x, order }: { x: TensorLike; order: TensorLike }): { y: Tensor64 } {
  const tokens = x.shape[0] * x.shape[1];
  const width = sizeOf(inner(x));
  const entries = order.data.length;
  const y = zeros([1, entries, ...inner(x)]);
  for (let i = 0; i < entries; i++) {
    const token = Math.floor((Number(order.data[i]) * tokens) / entries);
    for (let c = 0; c < width; c++) y.data[i * width + c] = Number(x.data[token * width + c]);
  }
  return { y };
}

export function momGatherBackward({ dY, slots }: { dY: TensorLike; slots: TensorLike }): {
  dx: Tensor64;
} {
  return { dx: sumOf(dY, slots, () => 1) };
}

function sumOf(rows: TensorLike, slots: TensorLike, weight: (entry: number) => number): Tensor64 {
  const [B, T, k] = slots.shape;
  const width = sizeOf(inner(rows));
  const sum = zeros([B, T, ...inner(rows)]);
  for (let entry = 0; entry < B * T * k; entry++)
    for (let c = 0; c < width; c++)
      sum.data[Math.floor(entry / k) * width + c] +=
        weight(entry) * Number(rows.data[Number(slots.data[entry]) * width + c]);
  return sum;
}

interface CombineInputs {
  o: TensorLike;
  weights: TensorLike;
  slots: TensorLike;
  shared?: TensorLike;
}

export function momCombine({ o, weights, slots, shared }: CombineInputs): { y: Tensor64 } {
  const y = sumOf(o, slots, (entry) => Number(weights.data[entry]));
  for (let i = 0; i < y.data.length && shared; i++) y.data[i] += Number(shared.data[i]);
  return { y };
}

export function momCombineBackward({ o, weights, slots, dY }: CombineInputs & { dY: TensorLike }): {
  dO: Tensor64;
  dWeights: Tensor64;
} {
  const k = slots.shape[2];
  const width = sizeOf(inner(o));
  const dO = zeros(o.shape);
  const dWeights = zeros(weights.shape);
  for (let entry = 0; entry < dWeights.data.length; entry++)
    for (let c = 0; c < width; c++) {
      const at = Number(slots.data[entry]) * width + c;
      const d = Number(dY.data[Math.floor(entry / k) * width + c]);
      dO.data[at] += Number(weights.data[entry]) * d;
      dWeights.data[entry] += Number(o.data[at]) * d;
    }
  return { dO, dWeights };
}
