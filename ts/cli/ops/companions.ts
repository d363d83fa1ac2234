// The ops around the fused LoRA product.
import * as reference from '#oracle/reference/companions';
import { normals } from '../../linalg/philox';
import type { Operation, Shape } from '../operation';
import { type Maker, operation, perElement } from './layers';

/** S [N,K] by `count` values, spread evenly over the rows, at random columns. */
function sparse({ N, K, count }: Shape, { normals, indices }: Maker) {
  const starts = Int32Array.from({ length: N + 1 }, (_, row) => Math.floor((row * count) / N));
  const indptr = { data: starts, shape: [N + 1] };
  return { values: normals(count), indptr, columns: indices(K, count) };
}

const productOfS = perElement(2, 4, ({ M, count }) => M * count);

/** The sparse matrix of a usual layer: two values in a hundred. */
const usualS = { M: 512, N: 1024, K: 1024, count: 20972 };

const spmm = operation({
  name: 'spmm',
  shapes: [
    { M: 13, N: 33, K: 70, count: 200 },
    { M: 70, N: 130, K: 50, count: 900 },
    { M: 1, N: 300, K: 200, count: 1500 },
  ],
  forwardOnly: ['addend'],
  unbenched: ['addend'],
  limits: { other: 2e-6 },
  draw: (shape, make) => {
    const { M, N, K } = shape;
    const { indptr, columns, values } = sparse(shape, make);
    const [x, addend, dY] = [make.normals(M, K), make.normals(M, N), make.normals(M, N)];
    return { x, values, indptr, columns, addend, dY };
  },
  forward: (inputs) => ({ ...reference.spmm(inputs) }),
  backward: reference.spmmBackward,
  flops: productOfS,
  tokens: 'M',
  usual: usualS,
});

const sddmm = operation({
  name: 'sddmm',
  shapes: [
    { M: 13, N: 33, K: 70, count: 200 },
    { M: 300, N: 20, K: 50, count: 90 },
  ],
  rounded: [],
  limits: { other: 2e-6 },
  draw: (shape, make) => {
    const { indptr, columns } = sparse(shape, make);
    const [a, b] = [make.normals(shape.M, shape.N), make.normals(shape.M, shape.K)];
    return { a, b, indptr, columns };
  },
  forward: (inputs) => ({ ...reference.sddmm(inputs) }),
  flops: productOfS,
  tokens: 'M',
  usual: usualS,
});

const scatterAdd = operation({
  name: 'scatterAdd',
  shapes: [{ N: 33, K: 70, count: 200 }],
  updated: ['w'],
  halves: false,
  limits: { other: 1e-6 },
  draw: (shape, make) => ({ w: make.normals(shape.N, shape.K), ...sparse(shape, make) }),
  forward: (inputs) => ({ ...reference.scatterAdd(inputs) }),
  flops: perElement(1, 0, ({ count }) => count),
  tokens: 'count',
  usual: { N: 1024, K: 1024, count: 20972 },
});

const kroneckerLinear = operation({
  name: 'kroneckerLinear',
  shapes: [
    { M: 13, n: 3, P: 4, Q: 5, R: 9, S: 7 },
    { M: 70, n: 1, P: 16, Q: 3, R: 6, S: 33 },
  ],
  forwardOnly: ['addend'],
  unbenched: ['addend'],
  limits: { other: 2e-6 },
  draw: ({ M, n, P, Q, R, S }, { normals }) => ({
    x: normals(M, Q * S),
    a: normals(n, P, Q),
    b: normals(n, R, S),
    addend: normals(M, P * R),
    dY: normals(M, P * R),
  }),
  forward: (inputs) => ({ ...reference.kroneckerLinear(inputs) }),
  backward: reference.kroneckerLinearBackward,
  // X b^T and a T; backward: X b^T again, a^T dY, and three products with them
  flops: (pass, { M, n, P, Q, R, S }) =>
    (pass === 'backward' ? 2 : 1) * 2 * M * n * Q * R * (S + P) +
    (pass === 'backward' ? 2 * M * n * Q * R * S : 0),
  tokens: 'M',
  usual: { M: 512, n: 4, P: 4, Q: 4, R: 256, S: 256 },
});

const basisCombination = operation({
  name: 'basisCombination',
  shapes: [
    { n: 5, rows: 7, D: 33 },
    { n: 40, rows: 16, D: 300 },
  ],
  rounded: ['sum'],
  limits: { other: 1e-6 },
  draw: ({ n, rows, D }, { normals }) => ({
    coefficients: normals(n),
    bases: normals(n, rows, D),
    dSum: normals(rows, D),
  }),
  forward: (inputs) => ({ ...reference.basisCombination(inputs) }),
  backward: reference.basisCombinationBackward,
  flops: perElement(2, 3, ({ n, rows, D }) => n * rows * D),
  tokens: 'rows',
  usual: { n: 64, rows: 16, D: 4096 },
});

const randLora = operation({
  name: 'randLora',
  shapes: [
    { n: 5, N: 33, K: 70, rank: 4 },
    { n: 2, N: 70, K: 40, rank: 16 },
  ],
  float32: ['lambda', 'gamma', 'dDelta'],
  rounded: [],
  limits: { other: 2e-6 },
  draw: ({ n, N, K, rank }, { normals }) => ({
    a: normals(rank, K),
    b: normals(n, N, rank),
    lambda: normals(n, rank),
    gamma: normals(n, K),
    dDelta: normals(N, K),
  }),
  forward: (inputs) => ({ ...reference.randLora(inputs) }),
  backward: reference.randLoraBackward,
  flops: perElement(2, 2, ({ n, N, K, rank }) => n * N * K * rank),
  tokens: 'N',
  usual: { n: 32, N: 1024, K: 1024, rank: 32 },
});

const doraNorms = operation({
  name: 'doraNorms',
  shapes: [
    { N: 33, K: 70, rank: 4 },
    { N: 70, K: 130, rank: 16 },
  ],
  rounded: [],
  float32: ['mid'],
  unbenched: ['mid'],
  limits: { other: 1e-6 },
  draw: ({ N, K, rank }, { normals }) => ({
    weight: normals(N, K),
    a: normals(rank, K),
    b: normals(N, rank),
    mid: normals(rank),
  }),
  forward: (inputs) => ({ ...reference.doraNorms(inputs) }),
  flops: perElement(2, 0, ({ N, K, rank }) => N * K * (rank + 1)),
  tokens: 'N',
  usual: { N: 1024, K: 1024, rank: 16 },
});

/** The S that seed 0 stands for. */
function sketchMatrix(rows: number, size: number) {
  const data = normals(rows * size, { seed: 0, deviation: 1 / Math.sqrt(size) });
  return { data, shape: [rows, size] };
}

const SKETCH_ROWS = 16;

const rowSketch = operation({
  name: 'rowSketch',
  shapes: [
    { M: 13, K: 33 },
    { M: 1100, K: 20 },
  ],
  options: { size: SKETCH_ROWS },
  rounded: [],
  limits: { other: 2e-6 },
  draw: ({ M, K }, { normals }) => ({ x: normals(M, K) }),
  forward: ({ x }) => ({ ...reference.rowSketch(x, sketchMatrix(x.shape[0], SKETCH_ROWS)) }),
  flops: perElement(2 * SKETCH_ROWS, 0, ({ M, K }) => M * K),
  tokens: 'M',
  usual: { M: 512, K: 1024 },
});

const rowSketchGradient = operation({
  name: 'rowSketchGradient',
  shapes: [
    { M: 13, N: 33, K: 40 },
    { M: 1100, N: 20, K: 9 },
  ],
  rounded: [],
  float32: ['sketch'],
  limits: { other: 2e-6 },
  draw: ({ M, N, K }, { normals }) => ({ dY: normals(M, N), sketch: normals(SKETCH_ROWS, K) }),
  forward: ({ dY, sketch }) => ({
    ...reference.rowSketchGradient(dY, sketch, sketchMatrix(dY.shape[0], SKETCH_ROWS)),
  }),
  flops: (_pass, { M, N, K }) => 2 * SKETCH_ROWS * N * (M + K),
  tokens: 'M',
  usual: { M: 512, N: 1024, K: 1024 },
});

export const companions: readonly Operation[] = [
  doraNorms,
  spmm,
  sddmm,
  scatterAdd,
  kroneckerLinear,
  basisCombination,
  randLora,
  rowSketch,
  rowSketchGradient,
];
