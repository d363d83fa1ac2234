/** Float64 linear algebra of the tests: plain loops, one-sided Jacobi, Gauss. It shares no code with the package. */
import { Random } from '../support/random.ts';
import type { Tensor32, TensorLike } from '../support/tensor.ts';

export type Matrix = number[][];

export function toMatrix({ data, shape: [rows, columns] }: TensorLike): Matrix {
  return Array.from({ length: rows }, (_, i) =>
    Array.from({ length: columns }, (_, j) => data[i * columns + j]),
  );
}

export function toTensor32(a: Matrix): Tensor32 {
  return { data: Float32Array.from(a.flat()), shape: [a.length, a[0].length] };
}

export function diagonal(values: ArrayLike<number>): Matrix {
  return Array.from({ length: values.length }, (_, i) =>
    Array.from({ length: values.length }, (_, j) => (i === j ? values[i] : 0)),
  );
}

export const identity = (size: number): Matrix => diagonal(new Array<number>(size).fill(1));

export const transpose = (a: Matrix): Matrix => a[0].map((_, j) => a.map((row) => row[j]));

export function multiply(...factors: Matrix[]): Matrix {
  return factors.reduce((a, b) => {
    const columns = transpose(b);
    return a.map((row) =>
      columns.map((column) => row.reduce((sum, x, k) => sum + x * column[k], 0)),
    );
  });
}

export function add(a: Matrix, b: Matrix, times = 1): Matrix {
  return a.map((row, i) => row.map((x, j) => x + times * b[i][j]));
}

export const subtract = (a: Matrix, b: Matrix): Matrix => add(a, b, -1);

export const scaled = (a: Matrix, times: number): Matrix =>
  a.map((row) => row.map((x) => times * x));

export const norm = (a: Matrix): number => Math.hypot(...a.flat());

/** `||a - b|| / ||b||` */
export const distance = (a: Matrix, b: Matrix): number => norm(subtract(a, b)) / norm(b);

/** Gauss and Jordan with row pivoting. */
export function inverse(a: Matrix): Matrix {
  const size = a.length;
  const rows = a.map((row, i) => [...row, ...identity(size)[i]]);
  for (let k = 0; k < size; k++) {
    let pivot = k;
    for (let i = k; i < size; i++) if (Math.abs(rows[i][k]) > Math.abs(rows[pivot][k])) pivot = i;
    [rows[k], rows[pivot]] = [rows[pivot], rows[k]];
    rows[k] = rows[k].map((x) => x / rows[k][k]);
    for (let i = 0; i < size; i++)
      if (i !== k) rows[i] = rows[i].map((x, j) => x - rows[i][k] * rows[k][j]);
  }
  return rows.map((row) => row.slice(size));
}

export interface Svd {
  u: Matrix;
  s: number[];
  v: Matrix;
}

/** Thin SVD by one-sided Jacobi rotations: `a = u diag(s) v^T`. */
export function svd(a: Matrix): Svd {
  if (a.length < a[0].length) {
    const { u, s, v } = svd(transpose(a));
    return { u: v, s, v: u };
  }
  const columns = transpose(a);
  const turns = identity(columns.length);
  const dot = (x: number[], y: number[]): number =>
    x.reduce((sum, value, i) => sum + value * y[i], 0);
  for (let sweep = 0, off = 1; sweep < 60 && off > 1e-15; sweep++) {
    off = 0;
    for (let p = 0; p < columns.length; p++)
      for (let q = p + 1; q < columns.length; q++) {
        const [pp, qq] = [dot(columns[p], columns[p]), dot(columns[q], columns[q])];
        const pq = dot(columns[p], columns[q]);
        if (pq === 0) continue;
        off = Math.max(off, Math.abs(pq) / Math.sqrt(pp * qq));
        const zeta = (qq - pp) / (2 * pq);
        const t = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
        const c = 1 / Math.hypot(1, t);
        for (const set of [columns, turns]) {
          const [x, y] = [set[p], set[q]];
          set[p] = x.map((value, i) => c * (value - t * y[i]));
          set[q] = x.map((value, i) => c * (t * value + y[i]));
        }
      }
  }
  const lengths = columns.map((column) => Math.hypot(...column));
  const order = lengths.map((_, k) => k).sort((i, j) => lengths[j] - lengths[i]);
  return {
    u: transpose(order.map((k) => columns[k].map((x) => (lengths[k] ? x / lengths[k] : 0)))),
    s: order.map((k) => lengths[k]),
    v: transpose(order.map((k) => turns[k])),
  };
}

/** `count` columns from column `first`. */
export const columnsFrom = (a: Matrix, first: number, count: number): Matrix =>
  a.map((row) => row.slice(first, first + count));

/** The best approximation of a rank. */
export function truncated({ u, s, v }: Svd, rank: number): Matrix {
  return multiply(
    columnsFrom(u, 0, rank),
    diagonal(s.slice(0, rank)),
    transpose(columnsFrom(v, 0, rank)),
  );
}

/** Norm of what is beyond a rank. */
export const tail = (s: number[], rank: number): number => Math.hypot(...s.slice(rank), 0);

/** Random orthonormal columns. */
export function randomBasis(rows: number, columns: number, random: Random): Matrix {
  const basis: number[][] = [];
  while (basis.length < columns) {
    let x = Array.from({ length: rows }, () => random.normal());
    for (let pass = 0; pass < 2; pass++)
      for (const q of basis) {
        const along = x.reduce((sum, value, i) => sum + value * q[i], 0);
        x = x.map((value, i) => value - along * q[i]);
      }
    const length = Math.hypot(...x);
    basis.push(x.map((value) => value / length));
  }
  return transpose(basis);
}

/** A float32 matrix of given singular values. */
export function withSpectrum(rows: number, columns: number, s: number[], seed: number): Tensor32 {
  const random = new Random(seed);
  const u = randomBasis(rows, s.length, random);
  const v = randomBasis(columns, s.length, random);
  return toTensor32(multiply(u, diagonal(s), transpose(v)));
}

/** `scale b mid a` */
export function deltaOf({
  a,
  b,
  scale,
  mid,
}: {
  a: TensorLike;
  b: TensorLike;
  scale: number;
  mid?: TensorLike;
}): Matrix {
  const middle = !mid
    ? identity(a.shape[0])
    : mid.shape.length === 1
      ? diagonal(mid.data)
      : toMatrix(mid);
  return scaled(multiply(toMatrix(b), middle, toMatrix(a)), scale);
}

/** Falling singular values that neither cluster nor vanish. */
export const spectrum = (length: number, ratio = 0.8): number[] =>
  Array.from({ length }, (_, k) => ratio ** k);
