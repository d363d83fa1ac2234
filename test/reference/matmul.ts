/**
 * out = op(a) op(b) + bias in float64, op transposing the last two axes on request.
 * Leading axes are a batch; an operand of rank 2 is shared by the whole batch of the other.
 */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, sizeOf, zeros } from '../support/tensor.ts';

export interface MatmulInputs {
  a: TensorLike; // [...,M,K], with transposeA [...,K,M]
  b: TensorLike; // [...,K,N], with transposeB [...,N,K]
  bias?: TensorLike; // [N]
}

export interface MatmulOptions {
  transposeA?: boolean;
  transposeB?: boolean;
}

export interface MatmulGradients {
  da: Tensor64;
  db: Tensor64;
  dBias?: Tensor64;
}

export function matmul(inputs: MatmulInputs, options: MatmulOptions = {}): Tensor64 {
  const { a, b, bias } = inputs;
  const s = bind(inputs, options);
  const out = zeros(s.outShape);
  for (let batch = 0; batch < s.batch; batch++) {
    for (let m = 0; m < s.M; m++) {
      for (let n = 0; n < s.N; n++) {
        let sum = bias ? bias.data[n] : 0;
        for (let k = 0; k < s.K; k++) sum += a.data[s.a(batch, m, k)] * b.data[s.b(batch, k, n)];
        out.data[s.out(batch, m, n)] = sum;
      }
    }
  }
  return out;
}

export function matmulBackward(
  inputs: MatmulInputs & { dOut: TensorLike },
  options: MatmulOptions = {},
): MatmulGradients {
  const { a, b, bias, dOut } = inputs;
  const s = bind(inputs, options);
  expectShape('dOut', dOut, s.outShape);
  const grads: MatmulGradients = { da: zeros(a.shape), db: zeros(b.shape) };
  if (bias) grads.dBias = zeros(bias.shape);
  for (let batch = 0; batch < s.batch; batch++) {
    for (let m = 0; m < s.M; m++) {
      for (let n = 0; n < s.N; n++) {
        const d = dOut.data[s.out(batch, m, n)];
        if (grads.dBias) grads.dBias.data[n] += d;
        for (let k = 0; k < s.K; k++) {
          const ai = s.a(batch, m, k);
          const bi = s.b(batch, k, n);
          grads.da.data[ai] += d * b.data[bi];
          grads.db.data[bi] += d * a.data[ai];
        }
      }
    }
  }
  return grads;
}

interface Sizes {
  batch: number;
  M: number;
  N: number;
  K: number;
  outShape: number[];
  a: (batch: number, m: number, k: number) => number;
  b: (batch: number, k: number, n: number) => number;
  out: (batch: number, m: number, n: number) => number;
}

function bind(
  { a, b, bias }: MatmulInputs,
  { transposeA = false, transposeB = false }: MatmulOptions,
): Sizes {
  const [aRows, aColumns] = a.shape.slice(-2);
  const [bRows, bColumns] = b.shape.slice(-2);
  const [M, K] = transposeA ? [aColumns, aRows] : [aRows, aColumns];
  const [bK, N] = transposeB ? [bColumns, bRows] : [bRows, bColumns];
  if (K !== bK) throw new RangeError(`inner sizes ${K} and ${bK}`);
  const aBatch = a.shape.slice(0, -2);
  const bBatch = b.shape.slice(0, -2);
  const lead = aBatch.length > 0 ? aBatch : bBatch;
  if (aBatch.length > 0 && bBatch.length > 0 && `${aBatch}` !== `${bBatch}`) {
    throw new RangeError(`batches [${aBatch}] and [${bBatch}]`);
  }
  if (bias) expectShape('bias', bias, [N]);
  const aStride = aBatch.length > 0 ? M * K : 0;
  const bStride = bBatch.length > 0 ? K * N : 0;
  return {
    batch: sizeOf(lead),
    M,
    N,
    K,
    outShape: [...lead, M, N],
    a: (batch, m, k) => batch * aStride + (transposeA ? k * M + m : m * K + k),
    b: (batch, k, n) => batch * bStride + (transposeB ? n * K + k : k * N + n),
    out: (batch, m, n) => (batch * M + m) * N + n,
  };
}
