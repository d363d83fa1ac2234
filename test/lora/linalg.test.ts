/** Bases, the small factorizations and the randomised SVD against float64 references. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { getNumThreads, randomizedSvd, setNumThreads } from '../../ts/index';
import { columnsOf, orthonormalize } from '../../ts/linalg/columns';
import * as dense from '../../ts/linalg/dense';
import { partialLdu } from '../../ts/linalg/elimination';
import { minorSvd } from '../../ts/linalg/minorSvd';
import { sameBits } from '../ops/helpers.ts';
import { Random } from '../support/random.ts';
import type { Tensor32 } from '../support/tensor.ts';
import {
  diagonal,
  distance,
  identity,
  inverse,
  type Matrix,
  multiply,
  norm,
  randomBasis,
  scaled,
  spectrum,
  subtract,
  svd,
  tail,
  toMatrix,
  toTensor32,
  transpose,
  withSpectrum,
} from './reference.ts';

function atMost(value: number, limit: number, label: string): void {
  assert.ok(value <= limit, `${label}: ${value}, at most ${limit}`);
}

const random = (rows: number, columns: number, seed: number): Tensor32 => ({
  data: new Random(seed).normals(rows * columns),
  shape: [rows, columns],
});

function squareOf(a: Matrix): dense.Square {
  return { size: a.length, data: Float64Array.from(a.flat()) };
}

const matrixOf = ({ size, data }: dense.Square): Matrix => toMatrix({ data, shape: [size, size] });

test('QR: orthonormal whatever the condition or rank', () => {
  const dependent = random(30, 6, 1);
  for (let i = 0; i < 30; i++) {
    dependent.data[i * 6 + 2] = dependent.data[i * 6 + 1];
    dependent.data[i * 6 + 4] = 0;
  }
  const tensors = {
    square: random(8, 8, 2),
    tall: random(40, 5, 3),
    steep: withSpectrum(40, 20, spectrum(20, 0.1), 4),
    dependent,
    zero: { data: new Float32Array(12), shape: [4, 3] },
  };
  for (const [label, tensor] of Object.entries(tensors)) {
    const [rows, count] = tensor.shape;
    const columns = columnsOf(tensor);
    const triangle = toMatrix({ data: orthonormalize(columns, 0), shape: [count, count] });
    const q = transpose(toMatrix({ data: columns.data, shape: [count, rows] }));
    atMost(norm(subtract(multiply(transpose(q), q), identity(count))), 1e-13, label);
    const a = toMatrix(tensor);
    atMost(norm(subtract(multiply(q, triangle), a)), 1e-14 * norm(a), label);
    for (let i = 0; i < count; i++) {
      assert.ok(triangle[i][i] >= 0);
      for (let j = 0; j < i; j++) assert.is(triangle[i][j], 0);
    }
  }
});

test('small factorizations, ill-conditioned and rank-deficient ones among them', () => {
  const generator = new Random(7);
  const basis = (size: number) => randomBasis(size, size, generator);
  const spectra = {
    random: spectrum(12),
    steep: spectrum(16, 0.1),
    deficient: [3, 2, 1, 0, 0, 0],
    equal: [1, 1, 1, 1],
    zero: [0, 0, 0],
    one: [2],
  };
  for (const [label, s] of Object.entries(spectra)) {
    const a = multiply(basis(s.length), diagonal(s), transpose(basis(s.length)));
    const factors = dense.svd(squareOf(a));
    const [u, v] = [matrixOf(factors.u), matrixOf(factors.v)];
    for (const q of [u, v])
      atMost(norm(subtract(multiply(transpose(q), q), identity(s.length))), 1e-13, label);
    const largest = Math.max(s[0], 1e-300);
    atMost(Math.max(...factors.s.map((x, k) => Math.abs(x - s[k]))), 1e-14 * largest, label);
    const back = multiply(u, diagonal(factors.s), transpose(v));
    atMost(norm(subtract(back, a)), 2e-14 * largest, label);

    const q = basis(s.length);
    const symmetric = multiply(q, diagonal(s), transpose(q));
    const { values, vectors } = dense.symmetricEigen(squareOf(symmetric));
    const w = matrixOf(vectors);
    atMost(norm(subtract(multiply(transpose(w), w), identity(s.length))), 1e-13, label);
    const rebuilt = multiply(w, diagonal(values), transpose(w));
    atMost(norm(subtract(rebuilt, symmetric)), 2e-14 * largest, label);
  }
});

test('pseudo-inverse', () => {
  const a = toMatrix(random(7, 7, 3));
  atMost(distance(matrixOf(dense.pseudoInverse(squareOf(a))), inverse(a)), 1e-12, 'regular');
  const deficient = multiply(toMatrix(random(6, 2, 4)), toMatrix(random(2, 6, 5)));
  const x = matrixOf(dense.pseudoInverse(squareOf(deficient)));
  atMost(distance(multiply(deficient, x, deficient), deficient), 1e-12, 'a x a = a');
  atMost(distance(multiply(x, deficient, x), x), 1e-12, 'x a x = x');
  const projector = multiply(deficient, x);
  atMost(distance(transpose(projector), projector), 1e-12, 'a x is symmetric');
  assert.equal(
    [
      ...dense.pseudoInverse(
        squareOf([
          [0, 0],
          [0, 0],
        ]),
      ).data,
    ],
    [0, 0, 0, 0],
  );
});

/** All steps on the whole matrix, row by row. */
function fullLdu(a: Matrix): { pivots: number[]; steps: { column: number[]; row: number[] }[] } {
  const rest = a.map((row) => [...row]);
  const pivots: number[] = [];
  const steps = [];
  for (let k = 0; k < Math.min(a.length, a[0].length); k++) {
    const open = rest.map((_, i) => i).filter((i) => !pivots.includes(i));
    const pivot = open.reduce((x, i) => (Math.abs(rest[i][k]) > Math.abs(rest[x][k]) ? i : x));
    const row = [...rest[pivot]];
    const column = rest.map((r, i) => (open.includes(i) ? r[k] / row[k] : 0));
    for (const i of open) rest[i] = rest[i].map((x, j) => x - column[i] * row[j]);
    pivots.push(pivot);
    steps.push({ column, row });
  }
  return { pivots, steps };
}

test('the first steps of an elimination are those of the whole one', () => {
  for (const [rows, columns, steps] of [
    [9, 9, 4],
    [12, 5, 5],
    [5, 12, 3],
    [1, 1, 1],
  ]) {
    const a = random(rows, columns, rows + columns);
    const { l, d, u } = partialLdu('test', a, steps);
    const whole = fullLdu(toMatrix(a)).steps;
    for (let k = 0; k < steps; k++) {
      const { column, row } = whole[k];
      const pivot = row[k];
      atMost(Math.abs(d[k] - pivot), 1e-12 * Math.abs(pivot), 'd');
      for (let i = 0; i < rows; i++) atMost(Math.abs(l[i * steps + k] - column[i]), 1e-12, 'l');
      for (let j = 0; j < columns; j++)
        atMost(Math.abs(u[k * columns + j] - row[j] / pivot), 1e-10, 'u');
    }
  }
});

test('randomised SVD: near the best error, orthonormal, falling', async () => {
  const cases = [
    { label: 'falls', rows: 60, columns: 90, s: spectrum(60), rank: 8, limit: 1 + 1e-5 },
    { label: 'tall', rows: 90, columns: 50, s: spectrum(50, 0.9), rank: 5, limit: 1 + 1e-4 },
    {
      label: 'slowly',
      rows: 120,
      columns: 100,
      s: Array.from({ length: 100 }, (_, k) => 1 / Math.sqrt(1 + k)),
      rank: 10,
      limit: 1 + 2e-3,
    },
  ];
  for (const { label, rows, columns, s, rank, limit } of cases) {
    const a = withSpectrum(rows, columns, s, rows);
    const factors = await randomizedSvd({ a }, { rank });
    const [u, vt] = [toMatrix(factors.u), toMatrix(factors.vt)];
    atMost(norm(subtract(multiply(transpose(u), u), identity(rank))), 1e-6, label);
    atMost(norm(subtract(multiply(vt, transpose(vt)), identity(rank))), 1e-6, label);
    const error = norm(subtract(toMatrix(a), multiply(u, diagonal(factors.s.data), vt)));
    atMost(error / tail(s, rank), limit, label);
    for (let k = 0; k < rank; k++) atMost(Math.abs(factors.s.data[k] / s[k] - 1), 2e-3, label);
  }
});

test('randomised SVD: a sketch as wide as the matrix is the SVD', async () => {
  for (const [rows, columns] of [
    [9, 9],
    [30, 7],
    [7, 30],
    [1, 5],
    [5, 1],
    [1, 1],
  ]) {
    const a = random(rows, columns, 11);
    const rank = Math.min(rows, columns);
    const { u, s, vt } = await randomizedSvd({ a }, { rank });
    const exact = svd(toMatrix(a));
    for (let k = 0; k < rank; k++) {
      atMost(Math.abs(s.data[k] - exact.s[k]), 2e-6 * exact.s[0], 'value');
      const row = [...vt.data.slice(k * columns, (k + 1) * columns)];
      const largest = row.reduce((x, y) => (Math.abs(y) > Math.abs(x) ? y : x));
      assert.ok(largest > 0, 'sign');
    }
    const back = multiply(toMatrix(u), diagonal(s.data), toMatrix(vt));
    atMost(distance(back, toMatrix(a)), 1e-6, `${rows}x${columns}`);
  }
});

test('randomised SVD: orthonormal beyond the rank, and of zero', async () => {
  const a = withSpectrum(40, 30, [2, 1, 0.5], 3);
  const { u, s, vt } = await randomizedSvd({ a }, { rank: 8 });
  atMost(norm(subtract(multiply(transpose(toMatrix(u)), toMatrix(u)), identity(8))), 1e-6, 'u');
  atMost(norm(subtract(multiply(toMatrix(vt), transpose(toMatrix(vt))), identity(8))), 1e-6, 'v');
  atMost(s.data[3], 1e-6, 'beyond');
  const zero = await randomizedSvd({ a: toTensor32(scaled(identity(6), 0)) }, { rank: 3 });
  assert.equal([...zero.s.data], [0, 0, 0]);
  const of0 = toMatrix(zero.u);
  atMost(norm(subtract(multiply(transpose(of0), of0), identity(3))), 1e-6, 'u of zero');
});

test('randomised SVD: the same bits from a seed, on any number of threads', async () => {
  const a = random(50, 70, 1);
  const before = getNumThreads();
  try {
    setNumThreads(1);
    const first = await randomizedSvd({ a }, { rank: 4, seed: 9 });
    setNumThreads(3);
    const second = await randomizedSvd({ a }, { rank: 4, seed: 9 });
    for (const name of ['u', 's', 'vt'] as const) sameBits(first[name], second[name]);
    const other = await randomizedSvd({ a }, { rank: 4, seed: 10 });
    assert.not.equal(first.u.data, other.u.data);
  } finally {
    setNumThreads(before);
  }
});

test('minor singular vectors, over panels, of steep and deficient matrices too', async () => {
  const linear = (n: number) => Array.from({ length: n }, (_, k) => 1 - k / n);
  const cases = [
    { label: 'square', rows: 80, columns: 80, s: linear(80), rounds: 12 },
    { label: 'wide', rows: 70, columns: 120, s: linear(70), rounds: 12 },
    { label: 'tall', rows: 120, columns: 70, s: linear(70), rounds: 12 },
    { label: 'steep', rows: 100, columns: 100, s: spectrum(100, 0.88), rounds: 4 },
    { label: 'narrow', rows: 5, columns: 9, s: linear(5), rounds: 1 },
  ];
  for (const { label, rows, columns, s, rounds } of cases) {
    const generator = new Random(rows);
    const left = randomBasis(rows, s.length, generator);
    const right = randomBasis(columns, s.length, generator);
    const a = toTensor32(multiply(left, diagonal(s), transpose(right)));
    const sketch = { oversample: 16, powerIterations: rounds, seed: 0 };
    const factors = await minorSvd(a, 3, sketch);
    const u = transpose(toMatrix({ data: factors.u.data, shape: [3, rows] }));
    const v = transpose(toMatrix({ data: factors.v.data, shape: [3, columns] }));
    for (const q of [u, v])
      atMost(norm(subtract(multiply(transpose(q), q), identity(3))), 1e-12, label);
    for (let k = 0; k < 3; k++)
      atMost(Math.abs(factors.s[k] - s[s.length - 3 + k]), 3e-6, `${label}: value ${k}`);
    // The vectors of the short side are found, those of the long side follow from them.
    const wide = rows <= columns;
    const [short, long] = wide ? [u, v] : [v, u];
    const image = multiply(wide ? transpose(toMatrix(a)) : toMatrix(a), short);
    atMost(norm(subtract(image, multiply(long, diagonal(factors.s)))), 1e-6, `${label}: image`);
    const product = multiply(u, diagonal(factors.s), transpose(v));
    const minor = s.map((x, k) => (k < s.length - 3 ? 0 : x));
    atMost(norm(image) / Math.hypot(...minor), 1.02, `${label}: no more than the least`);
    const rest = multiply(left, diagonal(minor), transpose(right));
    atMost(norm(subtract(product, rest)), 3e-6, `${label}: u s v^T`);
  }
  const deficient = withSpectrum(60, 60, spectrum(40), 2);
  const sketch = { oversample: 16, powerIterations: 3, seed: 0 };
  const { s, u } = await minorSvd(deficient, 20, sketch);
  atMost(s[0], 3e-6, 'null space');
  const basis = toMatrix({ data: u.data, shape: [20, 60] });
  atMost(norm(multiply(basis, toMatrix(deficient))), 1e-5, 'null space');
  const zero = await minorSvd({ data: new Float32Array(12), shape: [3, 4] }, 2, sketch);
  assert.equal([...zero.s], [0, 0]);
});

test('errors', async () => {
  const a = random(4, 6, 1);
  const fails = async (inputs: any, options: any, pattern: RegExp): Promise<void> => {
    const error = await randomizedSvd(inputs, options).then(
      () => undefined,
      (e) => e,
    );
    assert.instance(error, Error);
    assert.match(error.message, pattern);
  };
  await fails(
    { a },
    { rank: 5 },
    /^\[randomizedSvd\] rank: expected an integer from 1 to 4, got 5/,
  );
  await fails({ a }, {}, /rank: expected an integer, got undefined/);
  await fails({ a }, undefined, /options: expected an object/);
  await fails({ a, b: a }, { rank: 1 }, /b: expected/);
  await fails({ a }, { rank: 1, powerIteration: 3 }, /nearest: powerIterations/);
  await fails({ a: { data: a.data, shape: [6, 3] } }, { rank: 1 }, /a: expected 18 elements/);
  await fails({ a: { data: a.data, shape: [24] } }, { rank: 1 }, /a: expected shape/);
  await fails({ a: { data: [1], shape: [1, 1] } }, { rank: 1 }, /a: expected a Float32Array/);
  const poisoned = { data: a.data.slice().fill(Number.NaN, 3, 4), shape: a.shape };
  await fails({ a: poisoned }, { rank: 1 }, /a: expected finite elements, got NaN at 3/);
});

test.run();
