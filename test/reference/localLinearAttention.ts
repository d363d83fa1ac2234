/**
 * Local linear attention in float64, query by query, as the paper has it: with weights w_j = e^(scale q . k_j), their sum
 * omega, z_j = k_j - q and mu = sum_j w_j z_j,
 *   rho = (sum_j w_j z_j z_j^T + lambda omega I)^-1 mu,  s_j = w_j (1 - z_j . rho) / (omega - mu . rho),  o = sum_j s_j v_j
 * with the matrix formed and solved directly. The gradients go back through these lines one by one.
 */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, zeros } from '../support/tensor.ts';
import type { AttentionOptions, Query } from './attention.ts';
import { forEachQuery } from './attention.ts';

export interface LocalLinearInputs {
  q: TensorLike; // [B,T,H,K]
  k: TensorLike; // [B,S,HKV,K]
  v: TensorLike; // [B,S,HKV,V]
  lambda: TensorLike; // [B,T,H] or [H]
}

export type LocalLinearOptions = Omit<AttentionOptions, 'softcap'>;

export interface LocalLinearGradients {
  dq: Tensor64;
  dk: Tensor64;
  dv: Tensor64;
  dLambda: Tensor64;
}

/** A^-1 b for a symmetric positive definite A, row by row, by Cholesky's factors. */
function factored(A: Float64Array, n: number): (b: Float64Array) => Float64Array {
  const L = A.slice();
  for (let j = 0; j < n; j++)
    for (let i = j; i < n; i++) {
      let sum = L[i * n + j];
      for (let c = 0; c < j; c++) sum -= L[i * n + c] * L[j * n + c];
      L[i * n + j] = i === j ? Math.sqrt(sum) : sum / L[j * n + j];
    }
  return (b) => {
    const x = b.slice();
    for (let i = 0; i < n; i++) {
      for (let c = 0; c < i; c++) x[i] -= L[i * n + c] * x[c];
      x[i] /= L[i * n + i];
    }
    for (let i = n - 1; i >= 0; i--) {
      for (let c = i + 1; c < n; c++) x[i] -= L[c * n + i] * x[c];
      x[i] /= L[i * n + i];
    }
    return x;
  };
}

function dot(a: Float64Array, b: Float64Array): number {
  return a.reduce((sum, x, i) => sum + x * b[i], 0);
}

function rowOf({ data }: TensorLike, row: number, width: number): Float64Array {
  return Float64Array.from({ length: width }, (_, c) => data[row * width + c]);
}

/** The paper's quantities of one query. */
function fit(inputs: LocalLinearInputs, { row, head, keys, raw }: Query) {
  const K = inputs.q.shape[3];
  const lambdaAt = inputs.lambda.shape.length === 1 ? head : row;
  const lambda = inputs.lambda.data[lambdaAt];
  const q = rowOf(inputs.q, row, K);
  const most = raw.reduce((a, b) => Math.max(a, b), -Infinity);
  const w = raw.map((s) => Math.exp(s - most));
  const z = keys.map((key) => rowOf(inputs.k, key, K).map((x, c) => x - q[c]));
  const omega = w.reduce((a, b) => a + b, 0);
  const mu = new Float64Array(K);
  const sigma = new Float64Array(K * K);
  z.forEach((zj, j) => {
    for (let a = 0; a < K; a++) {
      mu[a] += w[j] * zj[a];
      for (let b = 0; b < K; b++) sigma[a * K + b] += w[j] * zj[a] * zj[b];
    }
  });
  for (let a = 0; a < K; a++) sigma[a * K + a] += lambda * omega;
  const solve = factored(sigma, K);
  const rho = solve(mu);
  const n = z.map((zj) => 1 - dot(zj, rho));
  const d = omega - dot(mu, rho);
  const s = w.map((wj, j) => (wj * n[j]) / d);
  return { lambda, lambdaAt, q, w, z, omega, mu, solve, rho, n, d, s };
}

export function localLinearAttention(
  inputs: LocalLinearInputs,
  options: LocalLinearOptions = {},
): { o: Tensor64 } {
  const { q, k, v, lambda } = inputs;
  const [B, T, H] = q.shape;
  const V = v.shape[3];
  expectShape('lambda', lambda, lambda.shape.length === 1 ? [H] : [B, T, H]);
  const o = zeros([B, T, H, V]);
  forEachQuery({ q, k, v }, options, (query) => {
    const { s } = fit(inputs, query);
    query.keys.forEach((key, j) => {
      for (let c = 0; c < V; c++) o.data[query.row * V + c] += s[j] * v.data[key * V + c];
    });
  });
  return { o };
}

export function localLinearAttentionBackward(
  inputs: LocalLinearInputs & { dO: TensorLike },
  options: LocalLinearOptions = {},
): LocalLinearGradients {
  const { q, k, v, lambda, dO } = inputs;
  const [K, V] = [q.shape[3], v.shape[3]];
  const scale = options.scale ?? 1 / Math.sqrt(K);
  const grads: LocalLinearGradients = {
    dq: zeros(q.shape),
    dk: zeros(k.shape),
    dv: zeros(v.shape),
    dLambda: zeros(lambda.shape),
  };
  forEachQuery({ q, k, v }, options, (query) => {
    const { row, keys } = query;
    if (keys.length === 0) return;
    const at = fit(inputs, query);
    const out = rowOf(dO, row, V);
    const ds = keys.map((key) => dot(out, rowOf(v, key, V)));
    // s_j = w_j n_j / d
    const dn = ds.map((x, j) => (x * at.w[j]) / at.d);
    const dd = -ds.reduce((sum, x, j) => sum + x * at.s[j], 0) / at.d;
    const dRho = new Float64Array(K).map(
      (_, c) => -dd * at.mu[c] - dn.reduce((sum, x, j) => sum + x * at.z[j][c], 0),
    );
    // rho = sigma^-1 mu: dSigma = -adjoint rho^T
    const adjoint = at.solve(dRho);
    const dMu = adjoint.map((x, c) => x - dd * at.rho[c]);
    const trace = -dot(adjoint, at.rho);
    const dOmega = dd + at.lambda * trace;
    grads.dLambda.data[at.lambdaAt] += at.omega * trace;
    keys.forEach((key, j) => {
      const [z, w] = [at.z[j], at.w[j]];
      const [along, across] = [dot(z, adjoint), dot(z, at.rho)];
      const dW = (ds[j] * at.n[j]) / at.d - along * across + dot(dMu, z) + dOmega;
      for (let c = 0; c < K; c++) {
        const dz = w * dMu[c] - dn[j] * at.rho[c] - w * (adjoint[c] * across + at.rho[c] * along);
        grads.dk.data[key * K + c] += dz + scale * dW * w * at.q[c];
        grads.dq.data[row * K + c] += scale * dW * w * k.data[key * K + c] - dz;
      }
      for (let c = 0; c < V; c++) grads.dv.data[key * V + c] += at.s[j] * out[c];
    });
  });
  return grads;
}
