/**
 * Tall matrices of few columns in float64, one column after the other, so that sums run over contiguous memory.
 *
 * Bases are orthogonalised in float64 although the products around them are float32: what a float32 basis loses of its
 * orthogonality (its rounding times its condition) would be lost in every later step.
 */
import type { ResultTensor, Tensor } from '../types';
import { normals } from './philox';

/** `count` columns of `rows` elements. @internal */
export interface Columns {
  readonly rows: number;
  readonly count: number;
  readonly data: Float64Array;
}

/** Columns of a row-major tensor `[rows, count]`. @internal */
export function columnsOf({ data, shape: [rows, count] }: Tensor): Columns {
  const columns = new Float64Array(rows * count);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < count; j++) columns[j * rows + i] = data[i * count + j];
  return { rows, count, data: columns };
}

/** Columns of the transpose of a row-major tensor `[count, rows]`. @internal */
export function columnsOfTransposed({ data, shape: [count, rows] }: Tensor): Columns {
  return { rows, count, data: Float64Array.from(data) };
}

/** The first `count` columns, each times its factor, as a tensor `[rows, count]`. @internal */
export function toTensor(
  { rows, data }: Columns,
  count: number,
  factor: (column: number) => number = () => 1,
): ResultTensor {
  const result = new Float32Array(rows * count);
  for (let j = 0; j < count; j++) {
    const times = factor(j);
    for (let i = 0; i < rows; i++) result[i * count + j] = times * data[j * rows + i];
  }
  return { data: result, shape: [rows, count], dtype: 'f32' };
}

/** The first `count` columns, each times its factor, as the rows of a tensor `[count, rows]`. @internal */
export function toTransposedTensor(
  { rows, data }: Columns,
  count: number,
  factor: (column: number) => number = () => 1,
): ResultTensor {
  const result = new Float32Array(rows * count);
  for (let j = 0; j < count; j++) {
    const times = factor(j);
    for (let i = 0; i < rows; i++) result[j * rows + i] = times * data[j * rows + i];
  }
  return { data: result, shape: [count, rows], dtype: 'f32' };
}

/** Columns `first` to `first + count - 1`, sharing memory. @internal */
export function sliceColumns({ rows, data }: Columns, first: number, count: number): Columns {
  return { rows, count, data: data.subarray(first * rows, (first + count) * rows) };
}

/** `sums[c] = x . columns[c]` over the elements from `start` on. Four at a time, so that no addition waits for another. @internal */
export function dots(
  columns: readonly Float64Array[],
  x: Float64Array,
  start: number,
  sums: Float64Array,
): void {
  let c = 0;
  for (; c + 3 < columns.length; c += 4) {
    const [a0, a1, a2, a3] = [columns[c], columns[c + 1], columns[c + 2], columns[c + 3]];
    let s0 = 0;
    let s1 = 0;
    let s2 = 0;
    let s3 = 0;
    for (let i = start; i < x.length; i++) {
      const value = x[i];
      s0 += a0[i] * value;
      s1 += a1[i] * value;
      s2 += a2[i] * value;
      s3 += a3[i] * value;
    }
    sums[c] = s0;
    sums[c + 1] = s1;
    sums[c + 2] = s2;
    sums[c + 3] = s3;
  }
  for (; c < columns.length; c++) {
    const column = columns[c];
    let sum = 0;
    for (let i = start; i < x.length; i++) sum += column[i] * x[i];
    sums[c] = sum;
  }
}

/** `x -= sum of times[c] columns[c]` */
function subtract(x: Float64Array, times: Float64Array, columns: readonly Float64Array[]): void {
  let c = 0;
  for (; c + 3 < columns.length; c += 4) {
    const [a0, a1, a2, a3] = [columns[c], columns[c + 1], columns[c + 2], columns[c + 3]];
    const [t0, t1, t2, t3] = [times[c], times[c + 1], times[c + 2], times[c + 3]];
    for (let i = 0; i < x.length; i++) x[i] -= t0 * a0[i] + t1 * a1[i] + (t2 * a2[i] + t3 * a3[i]);
  }
  for (; c < columns.length; c++) {
    const column = columns[c];
    const value = times[c];
    for (let i = 0; i < x.length; i++) x[i] -= value * column[i];
  }
}

function length(x: Float64Array): number {
  const sum = new Float64Array(1);
  dots([x], x, 0, sum);
  return Math.sqrt(sum[0]);
}

/**
 * Thin QR: the columns become orthonormal, the triangle `[count, count]` (row-major, diagonal >= 0) is returned.
 * Gram-Schmidt, twice, which leaves a basis orthogonal to rounding whatever the condition (Giraud, Langou and Rozloznik,
 * 2005). A column that depends on those before it has zero on the diagonal and becomes a random direction, so that the
 * basis is whole also where the rank is not.
 * @internal
 */
export function orthonormalize({ rows, count, data }: Columns, seed: number): Float64Array {
  const triangle = new Float64Array(count * count);
  const basis: Float64Array[] = [];
  const along = new Float64Array(count);
  const clear = (column: Float64Array, j?: number): void => {
    for (let pass = 0; pass < 2; pass++) {
      dots(basis, column, 0, along);
      subtract(column, along, basis);
      if (j === undefined) continue;
      for (let i = 0; i < j; i++) triangle[i * count + j] += along[i];
    }
  };
  for (let j = 0; j < count; j++) {
    const column = data.subarray(j * rows, (j + 1) * rows);
    const before = length(column);
    clear(column, j);
    let after = length(column);
    if (after > DEPENDENT * before) triangle[j * count + j] = after;
    else {
      column.set(normals(rows, { seed, stream: FILLED + j }));
      clear(column);
      after = length(column);
    }
    for (let i = 0; i < rows; i++) column[i] /= after;
    basis.push(column);
  }
  return triangle;
}

/** What is left of a dependent column is rounding. */
const DEPENDENT = 1e-13;

/** Streams of the generator from here on fill bases up. */
const FILLED = 2 ** 31;

/** `columns` times a row-major `[columns.count, inner]` matrix, the first `count` of its columns. @internal */
export function combine(
  { rows, count: inner, data }: Columns,
  weights: (row: number, column: number) => number,
  count: number,
): Columns {
  const columns = Array.from({ length: inner }, (_, i) => data.subarray(i * rows, (i + 1) * rows));
  const result = new Float64Array(rows * count);
  const times = new Float64Array(inner);
  for (let j = 0; j < count; j++) {
    for (let i = 0; i < inner; i++) times[i] = -weights(i, j);
    subtract(result.subarray(j * rows, (j + 1) * rows), times, columns);
  }
  return { rows, count, data: result };
}
