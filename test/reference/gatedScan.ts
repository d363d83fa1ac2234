/**
 * The gated scans in float64, token by token, per sequence and head:
 *   dplr:  p = S^T a;  S <- diag(e^g) S + b p^T + k v^T;  o = scale S^T q
 *   rwkv7: dplr with g = -e^-0.5 sigmoid(w), a = -kappa / |kappa|, b = a kappa / |kappa|, q = r, scale 1
 *   rwkv6: o = scale (S + (u k) v^T)^T q;  S <- diag(e^g) S + k v^T
 * The backward is reverse mode of these steps with every state kept.
 */
import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, toFloat64, zeros } from '../support/tensor.ts';

export interface ScanOptions {
  scale?: number;
  /** Boundaries of packed sequences, in tokens. */
  cuSeqlens?: ArrayLike<number>;
}

type Inputs = Record<string, TensorLike | undefined>;
type Results = Record<string, Tensor64>;

/** First token and end of every sequence, counted through the batch. */
export function sequencesOf(B: number, T: number, cuSeqlens?: ArrayLike<number>) {
  if (!cuSeqlens) return Array.from({ length: B }, (_, b) => ({ first: b * T, end: (b + 1) * T }));
  return Array.from({ length: cuSeqlens.length - 1 }, (_, i) => ({
    first: cuSeqlens[i],
    end: cuSeqlens[i + 1],
  }));
}

/** Log gates below this reset their row. */
const RESET = -104;
const decayOf = (g: number): number => (g < RESET ? 0 : Math.exp(g));

interface Bound {
  H: number;
  K: number;
  V: number;
  scale: number;
  sequences: { first: number; end: number }[];
  at: Record<string, Float64Array>;
  stateShape: number[];
  /** Reads before it writes, with the bonus u. */
  bonus: boolean;
}

function bind(inputs: Inputs, options: ScanOptions, names: readonly string[], scale?: number) {
  const [B, T, H, K] = inputs.q!.shape;
  const V = inputs.v!.shape[3];
  const at: Record<string, Float64Array> = {};
  for (const name of names) {
    const shape = name === 'v' ? [B, T, H, V] : name === 'u' ? [H, K] : [B, T, H, K];
    expectShape(name, inputs[name]!, shape);
    at[name] = toFloat64(inputs[name]!).data;
  }
  const sequences = sequencesOf(B, T, options.cuSeqlens);
  return {
    H,
    K,
    V,
    at,
    sequences,
    scale: options.scale ?? scale ?? K ** -0.5,
    stateShape: [sequences.length, H, K, V],
    bonus: names.includes('u'),
  };
}

/** Calls `f` with the state before every token, in order; returns the last one. */
function walk(
  p: Bound,
  start: Float64Array,
  { first, end }: { first: number; end: number },
  h: number,
  f: (row: number, before: Float64Array, after: Float64Array, read: Float64Array) => void,
): Float64Array {
  const { H, K, V, at } = p;
  let S = start;
  for (let t = first; t < end; t++) {
    const row = t * H + h;
    const next = new Float64Array(K * V);
    const read = new Float64Array(V);
    for (let i = 0; i < K && at.a; i++) {
      for (let j = 0; j < V; j++) read[j] += at.a[row * K + i] * S[i * V + j];
    }
    for (let i = 0; i < K; i++) {
      const decay = decayOf(at.g[row * K + i]);
      for (let j = 0; j < V; j++) {
        next[i * V + j] =
          (decay === 0 ? 0 : decay * S[i * V + j]) + at.k[row * K + i] * at.v[row * V + j];
        if (at.b) next[i * V + j] += at.b[row * K + i] * read[j];
      }
    }
    f(row, S, next, read);
    S = next;
  }
  return S;
}

function startOf(p: Bound, initialState: TensorLike | undefined, n: number, h: number) {
  const size = p.K * p.V;
  const from = (n * p.H + h) * size;
  if (!initialState) return new Float64Array(size);
  expectShape('initialState', initialState, p.stateShape);
  return Float64Array.from({ length: size }, (_, i) => initialState.data[from + i]);
}

function eachHead(p: Bound, f: (n: number, h: number) => void): void {
  for (let n = 0; n < p.sequences.length; n++) for (let h = 0; h < p.H; h++) f(n, h);
}

function run(p: Bound, inputs: Inputs): Results {
  const { K, V, at } = p;
  const o = zeros(inputs.v!.shape);
  const finalState = zeros(p.stateShape);
  eachHead(p, (n, h) => {
    const start = startOf(p, inputs.initialState, n, h);
    const last = walk(p, start, p.sequences[n], h, (row, before, after) => {
      for (let i = 0; i < K; i++) {
        for (let j = 0; j < V; j++) {
          const write = p.bonus ? at.u[h * K + i] * at.k[row * K + i] * at.v[row * V + j] : 0;
          const s = p.bonus ? before[i * V + j] + write : after[i * V + j];
          o.data[row * V + j] += p.scale * at.q[row * K + i] * s;
        }
      }
    });
    finalState.data.set(last, (n * p.H + h) * K * V);
  });
  return { o, finalState };
}

function reverse(p: Bound, inputs: Inputs): Results {
  const { H, K, V, at } = p;
  const like = (name: string): Tensor64 => zeros(inputs[name]!.shape);
  const grads: Results = {
    dq: like('q'),
    dk: like('k'),
    dv: like('v'),
    dg: like('g'),
    dInitialState: inputs.dFinalState ? toFloat64(inputs.dFinalState) : zeros(p.stateShape),
  };
  for (const name of ['a', 'b', 'u']) if (at[name]) grads[`d${name}`] = like(name);
  const { dq, dk, dv, dg, da, db, du } = grads;
  const dO = toFloat64(inputs.dO!).data;
  eachHead(p, (n, h) => {
    const size = K * V;
    const dS = grads.dInitialState.data.subarray((n * H + h) * size, (n * H + h + 1) * size);
    const steps: [number, Float64Array, Float64Array, Float64Array][] = [];
    walk(p, startOf(p, inputs.initialState, n, h), p.sequences[n], h, (...step) => {
      steps.push(step);
    });
    for (const [row, before, after, read] of steps.reverse()) {
      const dRead = new Float64Array(V);
      for (let i = 0; i < K; i++) {
        const x = row * K + i;
        const decay = decayOf(at.g[x]);
        for (let j = 0; j < V; j++) {
          const s = i * V + j;
          const out = p.scale * dO[row * V + j];
          const value = at.v[row * V + j];
          if (p.bonus) {
            const u = at.u[h * K + i];
            dq.data[x] += out * (before[s] + u * at.k[x] * value);
            dk.data[x] += out * u * at.q[x] * value;
            dv.data[row * V + j] += out * u * at.q[x] * at.k[x];
            du.data[h * K + i] += out * at.q[x] * at.k[x] * value;
          } else {
            dq.data[x] += out * after[s];
            dS[s] += out * at.q[x];
          }
          dk.data[x] += dS[s] * value;
          dv.data[row * V + j] += dS[s] * at.k[x];
          if (db) {
            db.data[x] += dS[s] * read[j];
            dRead[j] += dS[s] * at.b[x];
          }
          if (decay !== 0) dg.data[x] += decay * dS[s] * before[s];
        }
      }
      for (let i = 0; i < K; i++) {
        const x = row * K + i;
        const decay = decayOf(at.g[x]);
        for (let j = 0; j < V; j++) {
          const s = i * V + j;
          dS[s] = decay === 0 ? 0 : decay * dS[s];
          if (p.bonus) dS[s] += p.scale * dO[row * V + j] * at.q[x];
          if (!da) continue;
          da.data[x] += before[s] * dRead[j];
          dS[s] += at.a[x] * dRead[j];
        }
      }
    }
  });
  return grads;
}

const DPLR = ['q', 'k', 'v', 'g', 'a', 'b'];
const RWKV6 = ['q', 'k', 'v', 'g', 'u'];

export const dplr = {
  forward: (inputs: Inputs, options: ScanOptions = {}): Results =>
    run(bind(inputs, options, DPLR), inputs),
  backward: (inputs: Inputs, options: ScanOptions = {}): Results =>
    reverse(bind(inputs, options, DPLR), inputs),
};

export const rwkv6 = {
  forward: (inputs: Inputs, options: ScanOptions = {}): Results =>
    run(bind(inputs, options, RWKV6, 1), inputs),
  backward: (inputs: Inputs, options: ScanOptions = {}): Results =>
    reverse(bind(inputs, options, RWKV6, 1), inputs),
};

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const RATE = -Math.exp(-0.5);

/** The arguments of dplr, and |kappa| of every row. */
function asDplr({ r, w, k, v, kappa, a, ...rest }: Inputs) {
  const K = r!.shape[3];
  const [g, unit, minus, b] = [zeros(w!.shape), zeros(w!.shape), zeros(w!.shape), zeros(w!.shape)];
  const norms = new Float64Array(g.data.length / K);
  for (let row = 0; row < norms.length; row++) {
    const x = Array.from({ length: K }, (_, i) => kappa!.data[row * K + i]);
    norms[row] = Math.max(Math.hypot(...x), 1e-12);
    for (let i = row * K; i < (row + 1) * K; i++) {
      g.data[i] = RATE * sigmoid(w!.data[i]);
      unit.data[i] = kappa!.data[i] / norms[row];
      minus.data[i] = -unit.data[i];
      b.data[i] = a!.data[i] * unit.data[i];
    }
  }
  return { inputs: { q: r, k, v, g, a: minus, b, ...rest }, unit, norms };
}

export const rwkv7 = {
  forward: (inputs: Inputs, options: ScanOptions = {}): Results =>
    dplr.forward(asDplr(inputs).inputs, { scale: 1, ...options }),
  backward(inputs: Inputs, options: ScanOptions = {}): Results {
    const { inputs: made, unit, norms } = asDplr(inputs);
    const { dq, dg, da, db, ...rest } = dplr.backward(made, { scale: 1, ...options });
    const [dw, dkappa, dRate] = [zeros(dg.shape), zeros(dg.shape), zeros(dg.shape)];
    const K = unit.shape[3];
    for (let row = 0; row < norms.length; row++) {
      let along = 0;
      for (let i = row * K; i < (row + 1) * K; i++) {
        const s = sigmoid(inputs.w!.data[i]);
        dw.data[i] = dg.data[i] * RATE * s * (1 - s);
        dRate.data[i] = db.data[i] * unit.data[i];
        dkappa.data[i] = db.data[i] * inputs.a!.data[i] - da.data[i];
        along += dkappa.data[i] * unit.data[i];
      }
      for (let i = row * K; i < (row + 1) * K; i++) {
        dkappa.data[i] = (dkappa.data[i] - along * unit.data[i]) / norms[row];
      }
    }
    return { dr: dq, dw, dkappa, da: dRate, ...rest };
  },
};

/** By name. */
export const gatedScans = { dplr, rwkv6, rwkv7 };
