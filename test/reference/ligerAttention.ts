/**
 * Liger in float64 (arXiv:2503.01496), by its two references: gated linear attention over softmaxes of queries and keys
 * with gates from the keys, and softmax attention in a window, mixed.
 */
import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { zeros } from '../support/tensor.ts';
import { attention, attentionBackward } from './attention.ts';
import { gla } from './presets.ts';

export interface LigerInputs {
  q: TensorLike; // [B,T,H,K]
  k: TensorLike; // [B,T,HKV,K]
  v: TensorLike; // [B,T,HKV,V]
  windowQ?: TensorLike;
  windowK?: TensorLike;
  initialState?: TensorLike; // [N,H,K,V]
}

export interface LigerGradientInputs extends LigerInputs {
  dO: TensorLike;
  dFinalState?: TensorLike;
}

export interface LigerOptions {
  window?: number;
  gateNormalizer?: number;
  mix?: readonly [number, number];
  scale?: number;
  cuSeqlens?: ArrayLike<number | bigint>;
}

/** f of every row of the last axis. */
function rowwise(x: TensorLike, f: (row: number[]) => number[]): Tensor64 {
  const width = x.shape[x.shape.length - 1];
  const y = zeros(x.shape);
  for (let at = 0; at < x.data.length; at += width)
    y.data.set(f(Array.from({ length: width }, (_, i) => Number(x.data[at + i]))), at);
  return y;
}

const softmax = (row: number[]): number[] => {
  const most = Math.max(...row);
  const powers = row.map((x) => Math.exp(x - most));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((p) => p / total);
};

/** [B,T,HKV,K] with each head as often as heads of q share it. */
function repeated(x: TensorLike, H: number): Tensor64 {
  const [B, T, HKV, K] = x.shape;
  const y = zeros([B, T, H, K]);
  for (let i = 0; i < y.data.length; i++) {
    const [row, c] = [Math.floor(i / K), i % K];
    const [token, h] = [Math.floor(row / H), row % H];
    y.data[i] = Number(x.data[(token * HKV + Math.floor(h / (H / HKV))) * K + c]);
  }
  return y;
}

/** The sum over heads that share one: the transpose of repeated(). */
function shared(x: TensorLike, HKV: number): Tensor64 {
  const [B, T, H, K] = x.shape;
  const y = zeros([B, T, HKV, K]);
  for (let i = 0; i < x.data.length; i++) {
    const [row, c] = [Math.floor(i / K), i % K];
    const [token, h] = [Math.floor(row / H), row % H];
    y.data[(token * HKV + Math.floor(h / (H / HKV))) * K + c] += Number(x.data[i]);
  }
  return y;
}

const scaled = (x: TensorLike, by: number): Tensor64 => ({
  data: Float64Array.from(x.data as ArrayLike<number>, (a) => a * by),
  shape: [...x.shape],
});
const sum = (a: TensorLike, b: TensorLike): Tensor64 => ({
  data: Float64Array.from(a.data as ArrayLike<number>, (x, i) => x + Number(b.data[i])),
  shape: [...a.shape],
});

function parts({ q, k, v, windowQ, windowK, initialState }: LigerInputs, options: LigerOptions) {
  const { window = 64, gateNormalizer = 16, mix = [0.5, 0.5], scale, cuSeqlens } = options;
  const H = q.shape[2];
  const gates = rowwise(k, (row) => row.map((x) => -Math.log1p(Math.exp(-x)) / gateNormalizer));
  const linear = {
    q: rowwise(q, softmax),
    k: repeated(rowwise(k, softmax), H),
    v: repeated(v, H),
    g: repeated(gates, H),
    initialState,
  };
  return {
    linear,
    softmaxed: { q: windowQ ?? q, k: windowK ?? k, v },
    mix,
    linearOptions: { scale: 1, cuSeqlens },
    windowOptions: { window: [window - 1, 0] as const, scale, cuSeqlens },
    gateNormalizer,
  };
}

export function ligerAttention(inputs: LigerInputs, options: LigerOptions = {}) {
  const p = parts(inputs, options);
  const { o, finalState } = gla.forward(p.linear as any, p.linearOptions as any);
  const inside = attention(p.softmaxed, p.windowOptions).o;
  return { o: sum(scaled(o, p.mix[0]), scaled(inside, p.mix[1])), finalState };
}

export function ligerAttentionBackward(
  inputs: LigerGradientInputs,
  options: LigerOptions = {},
): Record<string, Tensor64> {
  const { k, dO, dFinalState } = inputs;
  const HKV = k.shape[2];
  const p = parts(inputs, options);
  const d = gla.backward(
    { ...p.linear, dO: scaled(dO, p.mix[0]), dFinalState } as any,
    p.linearOptions as any,
  ) as any;
  const inside = attentionBackward({ ...p.softmaxed, dO: scaled(dO, p.mix[1]) }, p.windowOptions);
  const through = (y: TensorLike, dy: TensorLike): Tensor64 => {
    const K = y.shape[3];
    const dx = zeros(y.shape);
    for (let at = 0; at < y.data.length; at += K)
      for (let i = 0; i < K; i++)
        for (let j = 0; j < K; j++)
          dx.data[at + i] +=
            Number(dy.data[at + j]) * y.data[at + j] * ((i === j ? 1 : 0) - y.data[at + i]);
    return dx;
  };
  const dGates = shared(d.dg, HKV);
  const fromGates = {
    data: dGates.data.map((x, i) => x / (1 + Math.exp(Number(k.data[i]))) / p.gateNormalizer),
    shape: dGates.shape,
  };
  const dq = through(p.linear.q, d.dq);
  const dk = sum(shared(through(p.linear.k, d.dk), HKV), fromGates);
  return {
    ...(inputs.windowQ
      ? { dq, dk, dWindowQ: inside.dq, dWindowK: inside.dk }
      : { dq: sum(dq, inside.dq), dk: sum(dk, inside.dk) }),
    dv: sum(shared(d.dv, HKV), inside.dv),
    ...(inputs.initialState && { dInitialState: d.dInitialState }),
  };
}
