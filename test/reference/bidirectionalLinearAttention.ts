/**
 * Linear attention without order in float64, as the quadratic form that it equals: with all weights
 * w_ts = alpha_s phi(q_t).phi(k_s) at hand, o_t = scale sum_s w_ts v_s / (sum_s w_ts + eps) * modulate_t.
 */
import { type Tensor64, type TensorLike, toFloat64, zeros } from '../support/tensor.ts';
import { type FeatureMapOptions, featureMap, featureMapBackward } from './featureMap.ts';

export interface BidirectionalInputs {
  q: TensorLike; // [B,T,H,K]
  k: TensorLike; // [B,S,HKV,K]
  v: TensorLike; // [B,S,HKV,V]
  alpha?: TensorLike; // [B,S,HKV]
  modulate?: TensorLike; // [B,T,H,V]
  qWeight?: TensorLike; // [H,K,D] or [K,D]
  kWeight?: TensorLike; // [HKV,K,D] or [K,D]
}

export interface BidirectionalOptions {
  featureMap?: string;
  power?: number;
  normalize?: boolean;
  rankAugmented?: boolean;
  scale?: number;
  eps?: number;
  cuSeqlens?: ArrayLike<number | bigint>;
  cuSeqlensK?: ArrayLike<number | bigint>;
}

interface Sequence {
  q: number;
  T: number;
  k: number;
  S: number;
}

function sequencesOf({ q, k }: BidirectionalInputs, options: BidirectionalOptions): Sequence[] {
  const [B, T] = q.shape;
  const S = k.shape[1];
  const { cuSeqlens, cuSeqlensK = cuSeqlens } = options;
  if (!cuSeqlens || !cuSeqlensK)
    return Array.from({ length: B }, (_, b) => ({ q: b * T, T, k: b * S, S }));
  const [at, atK] = [Array.from(cuSeqlens, Number), Array.from(cuSeqlensK, Number)];
  return at.slice(1).map((end, i) => ({
    q: at[i],
    T: end - at[i],
    k: atK[i],
    S: atK[i + 1] - atK[i],
  }));
}

const mapOf = ({ featureMap: kind = 'none', power }: BidirectionalOptions): FeatureMapOptions => ({
  kind,
  power,
});

/** Rows of a tensor [tokens, heads, width]. */
function rowsOf(x: TensorLike) {
  const { data, shape } = toFloat64(x);
  const [heads, width] = shape.slice(-2);
  return (token: number, head: number): Row =>
    data.subarray((token * heads + head) * width, (token * heads + head + 1) * width);
}

type Row = ArrayLike<number>;

function dot(a: Row, b: Row): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/** All weights of one head in one sequence. */
interface Head {
  s: Sequence;
  h: number;
  g: number;
  /** phi(q_t).phi(k_s) */
  products: number[][];
  /** alpha_s */
  weights: number[];
  /** sum of weights and eps, or 1 */
  divisors: number[];
  /** the output before its modulation */
  y: number[][];
}

/** The mean of phi(q) over a sequence and the heads of a group. */
function meanQuery(
  fq: ReturnType<typeof rowsOf>,
  F: number,
  s: Sequence,
  g: number,
  group: number,
): number[] {
  const mean: number[] = Array(F).fill(0);
  for (let t = 0; t < s.T; t++)
    for (let i = 0; i < group; i++)
      for (let f = 0; f < F; f++) mean[f] += fq(s.q + t, g * group + i)[f] / (s.T * group);
  return mean;
}

function prepare(inputs: BidirectionalInputs, options: BidirectionalOptions) {
  const { q, k, v, alpha, qWeight, kWeight } = inputs;
  const [H, K] = q.shape.slice(2);
  const [HKV, V] = v.shape.slice(2);
  const group = H / HKV;
  const { normalize = true, scale = 1, eps = 1e-6, rankAugmented } = options;
  const map = mapOf(options);
  const features = {
    q: featureMap({ x: q, weight: qWeight }, map),
    k: featureMap({ x: k, weight: kWeight }, map),
  };
  const [fq, fk, values] = [rowsOf(features.q), rowsOf(features.k), rowsOf(v)];
  const sequences = sequencesOf(inputs, options);
  const weightsOf = (s: Sequence, g: number): number[] => {
    const keys = Array.from({ length: s.S }, (_, i) => s.k + i);
    if (alpha) return keys.map((token) => alpha.data[token * HKV + g]);
    if (!rankAugmented) return keys.map(() => 1);
    const mean = meanQuery(fq, features.q.shape[3], s, g, group);
    const logits = keys.map((token) => dot(mean, fk(token, g)) / Math.sqrt(K));
    const most = Math.max(...logits);
    const total = logits.reduce((sum, l) => sum + Math.exp(l - most), 0);
    return logits.map((l) => (s.S * Math.exp(l - most)) / total);
  };
  const heads: Head[] = sequences.flatMap((s) =>
    Array.from({ length: H }, (_, h) => {
      const g = Math.floor(h / group);
      const weights = weightsOf(s, g);
      const products = Array.from({ length: s.T }, (_, t) =>
        weights.map((_, i) => dot(fq(s.q + t, h), fk(s.k + i, g))),
      );
      const divisors = products.map((row) => (normalize ? dot(row, weights) + eps : 1));
      const y = products.map((row, t) => {
        const sums: number[] = Array(V).fill(0);
        if (divisors[t] === 0) return sums;
        row.forEach((w, i) => {
          const value = values(s.k + i, g);
          for (let c = 0; c < V; c++) sums[c] += (scale * w * weights[i] * value[c]) / divisors[t];
        });
        return sums;
      });
      return { s, h, g, products, weights, divisors, y };
    }),
  );
  return { H, K, HKV, V, group, normalize, scale, map, features, fq, fk, values, sequences, heads };
}

export function bidirectionalLinearAttention(
  inputs: BidirectionalInputs,
  options: BidirectionalOptions = {},
): { o: Tensor64 } {
  const { H, V, heads } = prepare(inputs, options);
  const o = zeros([...inputs.q.shape.slice(0, 3), V]);
  for (const { s, h, y } of heads)
    y.forEach((row, t) => {
      row.forEach((value, c) => {
        const at = ((s.q + t) * H + h) * V + c;
        o.data[at] = value * (inputs.modulate?.data[at] ?? 1);
      });
    });
  return { o };
}

export function bidirectionalLinearAttentionBackward(
  { dO, ...inputs }: BidirectionalInputs & { dO: TensorLike },
  options: BidirectionalOptions = {},
) {
  const { q, k, v, alpha, modulate, qWeight, kWeight } = inputs;
  const all = prepare(inputs, options);
  const { H, K, HKV, V, group, normalize, scale, map, features, fq, fk, values } = all;
  const dv = zeros(v.shape);
  const dAlpha = alpha && zeros(alpha.shape);
  const dModulate = modulate && zeros(modulate.shape);
  const [dfq, dfk] = [zeros(features.q.shape), zeros(features.k.shape)];
  const F = features.q.shape[3];
  const add = (to: Tensor64, row: number, factor: number, from: Row): void => {
    for (let f = 0; f < from.length; f++) to.data[row * from.length + f] += factor * from[f];
  };
  /** dalpha, by the sequence and the head of keys. */
  const ofWeights = new Map<(typeof all.heads)[number]['s'], Map<number, number[]>>();
  for (const { s, h, g, products, weights, divisors, y } of all.heads) {
    const ofHeads = ofWeights.get(s) ?? new Map<number, number[]>();
    const dWeights = ofHeads.get(g) ?? weights.map(() => 0);
    ofWeights.set(s, ofHeads.set(g, dWeights));
    products.forEach((row, t) => {
      const at = (s.q + t) * H + h;
      const given = Array.from({ length: V }, (_, c) => dO.data[at * V + c]);
      const slope = given.map((value, c) => value * (modulate?.data[at * V + c] ?? 1));
      if (dModulate)
        given.forEach((value, c) => {
          dModulate.data[at * V + c] = value * y[t][c];
        });
      if (divisors[t] === 0) return;
      const own = normalize ? dot(slope, y[t]) : 0;
      row.forEach((p, i) => {
        const dw = (scale * dot(slope, values(s.k + i, g)) - own) / divisors[t];
        add(dv, (s.k + i) * HKV + g, (scale * weights[i] * p) / divisors[t], slope);
        add(dfq, at, weights[i] * dw, fk(s.k + i, g));
        add(dfk, (s.k + i) * HKV + g, weights[i] * dw, fq(s.q + t, h));
        dWeights[i] += p * dw;
      });
    });
  }
  for (const { s, h, g, weights } of all.heads) {
    if (h % group) continue; // once for a head of keys
    const dWeights = ofWeights.get(s)?.get(g) as number[];
    if (dAlpha)
      dWeights.forEach((value, i) => {
        dAlpha.data[(s.k + i) * HKV + g] = value;
      });
    if (!options.rankAugmented || !s.T) continue;
    const mean = meanQuery(fq, F, s, g, group);
    const level = dot(weights, dWeights) / s.S;
    const dMean: number[] = Array(F).fill(0);
    weights.forEach((weight, i) => {
      const dLogit = (weight * (dWeights[i] - level)) / Math.sqrt(K);
      add(dfk, (s.k + i) * HKV + g, dLogit, mean);
      for (let f = 0; f < F; f++) dMean[f] += dLogit * fk(s.k + i, g)[f];
    });
    for (let t = 0; t < s.T; t++)
      for (let i = 0; i < group; i++)
        add(dfq, (s.q + t) * H + g * group + i, 1 / (s.T * group), dMean);
  }
  const ofQ = featureMapBackward({ x: q, weight: qWeight, dY: dfq }, map);
  const ofK = featureMapBackward({ x: k, weight: kWeight, dY: dfk }, map);
  return {
    ...{ dq: ofQ.dx, dk: ofK.dx, dv, dAlpha, dModulate },
    ...{ dQWeight: ofQ.dWeight, dKWeight: ofK.dWeight },
  };
}
