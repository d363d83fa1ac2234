/**
 * TTT-Linear in float64, token by token within its mini-batches: the inner loss of token j at the model W, b that its
 * mini-batch found is |f(k_j) - v_j|^2 / 2 with f(x) = x + LN(x W + b); the model after token i has taken the steps
 * eta_j of all tokens j <= i of the mini-batch, and o_i = f(q_i) with it. Gradients by reverse mode on scalars.
 */
import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, toFloat64, zeros } from '../support/tensor.ts';
import { sequencesOf } from './gatedScan.ts';

export interface TttInputs {
  q: TensorLike; // [B,T,H,D]
  k: TensorLike;
  v: TensorLike;
  eta: TensorLike; // [B,T,H]
  lnWeight: TensorLike; // [H,D]
  lnBias: TensorLike; // [H,D]
  W: TensorLike; // [H,D,D] or [N,H,D,D]
  b: TensorLike; // [H,D] or [N,H,D]
}

export interface TttOptions {
  miniBatch?: number;
  eps?: number;
  cuSeqlens?: ArrayLike<number>;
}

type Row = Float64Array<ArrayBufferLike>;
const row = (D: number): Row => new Float64Array(D);
const dot = (a: Row, b: Row): number => a.reduce((sum, x, i) => sum + x * b[i], 0);
const mean = (a: Row): number => a.reduce((sum, x) => sum + x, 0) / a.length;

/** Row r of a tensor whose rows have D elements. */
const rowAt = ({ data }: Tensor64, r: number, D: number): Row => data.subarray(r * D, (r + 1) * D);

interface Norm {
  hat: Row;
  /** The standard deviation, with eps. */
  root: number;
}

function norm(z: Row, eps: number): Norm {
  const m = mean(z);
  const d = z.map((x) => x - m);
  const root = Math.sqrt(dot(d, d) / z.length + eps);
  return { hat: d.map((x) => x / root), root };
}

/** The gradient at z, where g is that at its norm's hat. */
function normBackward(g: Row, { hat, root }: Norm): Row {
  const [m, along] = [mean(g), dot(g, hat) / g.length];
  return g.map((x, i) => (x - m - hat[i] * along) / root);
}

/** x W + b */
function apply(x: Row, W: Row, b: Row): Row {
  const D = x.length;
  return b.map((start, j) => x.reduce((sum, y, i) => sum + y * W[i * D + j], start));
}

/** W += s x y^T */
function addOuter(W: Row, s: number, x: Row, y: Row): void {
  const D = x.length;
  for (let i = 0; i < D; i++) for (let j = 0; j < D; j++) W[i * D + j] += s * x[i] * y[j];
}

/** W y */
function applyTransposed(W: Row, y: Row): Row {
  const D = y.length;
  return y.map((_, i) => dot(W.subarray(i * D, (i + 1) * D), y));
}

interface Token {
  at: number;
  z: Norm;
  raw: Row;
  /** The inner gradient at Z. */
  G: Row;
  out: Norm;
  /** The model that it leaves. */
  W: Row;
  b: Row;
}

interface Batch {
  W: Row;
  b: Row;
  tokens: Token[];
}

interface Bound {
  H: number;
  D: number;
  N: number;
  eps: number;
  q: Tensor64;
  k: Tensor64;
  v: Tensor64;
  eta: Tensor64;
  gamma: Tensor64;
  beta: Tensor64;
  shared: boolean;
  heads: { n: number; h: number; batches: number[][] }[];
  W: Tensor64;
  b: Tensor64;
}

function bind(inputs: TttInputs, { miniBatch = 16, eps = 1e-6, cuSeqlens }: TttOptions): Bound {
  const [B, T, H, D] = inputs.q.shape;
  expectShape('k', inputs.k, inputs.q.shape);
  expectShape('v', inputs.v, inputs.q.shape);
  expectShape('eta', inputs.eta, [B, T, H]);
  const sequences = sequencesOf(B, T, cuSeqlens);
  const shared = inputs.W.shape.length === 3;
  expectShape('W', inputs.W, shared ? [H, D, D] : [sequences.length, H, D, D]);
  const heads = sequences.flatMap(({ first, end }, n) =>
    Array.from({ length: H }, (_, h) => {
      const batches: number[][] = [];
      for (let t = first; t < end; t += miniBatch) {
        const count = Math.min(miniBatch, end - t);
        batches.push(Array.from({ length: count }, (_unused, i) => (t + i) * H + h));
      }
      return { n, h, batches };
    }),
  );
  const [q, k, v, eta] = [inputs.q, inputs.k, inputs.v, inputs.eta].map(toFloat64);
  const [gamma, beta, W, b] = [inputs.lnWeight, inputs.lnBias, inputs.W, inputs.b].map(toFloat64);
  return { H, D, N: sequences.length, eps, q, k, v, eta, gamma, beta, shared, heads, W, b };
}

function batchOf(p: Bound, h: number, at: number[], W: Row, b: Row): Batch {
  const { D, eps } = p;
  const [gamma, beta] = [rowAt(p.gamma, h, D), rowAt(p.beta, h, D)];
  const [running, runningB] = [W.slice(), b.slice()];
  const tokens = at.map((r): Token => {
    const [q, k, v] = [p.q, p.k, p.v].map((x) => rowAt(x, r, D));
    const z = norm(apply(k, W, b), eps);
    const raw = z.hat.map((x, i) => gamma[i] * x + beta[i] - v[i] + k[i]);
    const G = normBackward(
      raw.map((x, i) => x * gamma[i]),
      z,
    );
    const eta = p.eta.data[r];
    addOuter(running, -eta, k, G);
    for (let i = 0; i < D; i++) runningB[i] -= eta * G[i];
    const out = norm(apply(q, running, runningB), eps);
    return { at: r, z, raw, G, out, W: running.slice(), b: runningB.slice() };
  });
  return { W, b, tokens };
}

/** The mini-batches of a head in order, and the model after the last. */
function walk(p: Bound, { n, h, batches }: Bound['heads'][number]) {
  const { D, H } = p;
  const at = p.shared ? h : n * H + h;
  let W: Row = p.W.data.slice(at * D * D, (at + 1) * D * D);
  let b: Row = p.b.data.slice(at * D, (at + 1) * D);
  const done = batches.map((rows) => {
    const batch = batchOf(p, h, rows, W, b);
    ({ W, b } = batch.tokens[batch.tokens.length - 1]);
    return batch;
  });
  return { done, W, b };
}

export function tttLinear(inputs: TttInputs, options: TttOptions = {}) {
  const p = bind(inputs, options);
  const { D, H, N } = p;
  const o = zeros(inputs.q.shape);
  const [finalW, finalB] = [zeros([N, H, D, D]), zeros([N, H, D])];
  for (const head of p.heads) {
    const { done, W, b } = walk(p, head);
    const [gamma, beta] = [rowAt(p.gamma, head.h, D), rowAt(p.beta, head.h, D)];
    for (const { at, out } of done.flatMap(({ tokens }) => tokens)) {
      const q = rowAt(p.q, at, D);
      rowAt(o, at, D).set(out.hat.map((x, i) => q[i] + gamma[i] * x + beta[i]));
    }
    finalW.data.set(W, (head.n * H + head.h) * D * D);
    finalB.data.set(b, (head.n * H + head.h) * D);
  }
  return { o, finalW, finalB };
}

export function tttLinearBackward(
  inputs: TttInputs & { dO: TensorLike; dFinalW?: TensorLike; dFinalB?: TensorLike },
  options: TttOptions = {},
): Record<string, Tensor64> {
  const p = bind(inputs, options);
  const { D, H } = p;
  const like = (x: TensorLike): Tensor64 => zeros(x.shape);
  const [dq, dk, dv, dEta] = [inputs.q, inputs.k, inputs.v, inputs.eta].map(like);
  const [dLnWeight, dLnBias, dW, db] = [inputs.lnWeight, inputs.lnBias, inputs.W, inputs.b].map(
    like,
  );
  const dO = toFloat64(inputs.dO);
  const add = (to: Row, from: Row, by = 1): void => {
    for (let i = 0; i < from.length; i++) to[i] += by * from[i];
  };
  for (const head of p.heads) {
    const at = head.n * H + head.h;
    const part = (x: TensorLike | undefined, size: number): Row =>
      x ? toFloat64(x).data.slice(at * size, (at + 1) * size) : row(size);
    // Of the model after the mini-batch at hand, then before it.
    const gradW = part(inputs.dFinalW, D * D);
    const gradB = part(inputs.dFinalB, D);
    const gamma = rowAt(p.gamma, head.h, D);
    const [dGamma, dBeta] = [rowAt(dLnWeight, head.h, D), rowAt(dLnBias, head.h, D)];
    for (const { W, tokens } of walk(p, head).done.reverse()) {
      // Of the model as it runs through the tokens; what the inner gradients owe to its start comes on top.
      const [startW, startB] = [row(D * D), row(D)];
      for (const token of [...tokens].reverse()) {
        const { at: r, z, raw, G, out } = token;
        const [q, k] = [rowAt(p.q, r, D), rowAt(p.k, r, D)];
        const [gq, gk, gv] = [dq, dk, dv].map((x) => rowAt(x, r, D));
        const d = rowAt(dO, r, D);
        add(gq, d);
        add(dBeta, d);
        add(
          dGamma,
          d.map((x, i) => x * out.hat[i]),
        );
        const dZb = normBackward(
          d.map((x, i) => x * gamma[i]),
          out,
        );
        add(gq, applyTransposed(token.W, dZb));
        addOuter(gradW, 1, q, dZb);
        add(gradB, dZb);
        // W_t = W_(t-1) - eta k G^T, b_t = b_(t-1) - eta G.
        const eta = p.eta.data[r];
        const kW = apply(k, gradW, gradB);
        dEta.data[r] -= dot(kW, G);
        add(gk, applyTransposed(gradW, G), -eta);
        const dG = kW.map((x) => -eta * x);
        // G = (g - mean g - hat mean(g hat)) / root with g = gamma raw.
        const g = raw.map((x, i) => x * gamma[i]);
        const dg = normBackward(dG, z);
        const [gHat, dHat] = [dot(g, z.hat) / D, dot(dG, z.hat) / D];
        const dRoot = -dot(dG, G) / z.root;
        const dRaw = dg.map((x, i) => x * gamma[i]);
        add(
          dGamma,
          dg.map((x, i) => x * raw[i] + dRaw[i] * z.hat[i]),
        );
        add(dBeta, dRaw);
        add(gv, dRaw, -1);
        add(gk, dRaw);
        const dZhat = dRaw.map((x, i) => x * gamma[i] - (dG[i] * gHat + g[i] * dHat) / z.root);
        const dZ = normBackward(dZhat, z).map((x, i) => x + (dRoot * z.hat[i]) / D);
        add(gk, applyTransposed(W, dZ));
        addOuter(startW, 1, k, dZ);
        add(startB, dZ);
      }
      add(gradW, startW);
      add(gradB, startB);
    }
    const to = p.shared ? head.h : at;
    add(dW.data.subarray(to * D * D, (to + 1) * D * D), gradW);
    add(db.data.subarray(to * D, (to + 1) * D), gradB);
  }
  return { dq, dk, dv, dEta, dLnWeight, dLnBias, dW, db };
}
