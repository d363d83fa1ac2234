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

/** Four sums, since one would wait for itself at every addition. */
function dot(a: Float64Array, b: Float64Array): number {
  const length = a.length;
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let i = 0;
  for (; i + 3 < length; i += 4) {
    s0 += a[i] * b[i];
    s1 += a[i + 1] * b[i + 1];
    s2 += a[i + 2] * b[i + 2];
    s3 += a[i + 3] * b[i + 3];
  }
  for (; i < length; i++) s0 += a[i] * b[i];
  return s0 + s1 + (s2 + s3);
}

function subtract(y: Float64Array, times: number, x: Float64Array): void {
  for (let i = 0; i < y.length; i++) y[i] -= times * x[i];
}

/**
 * Thin QR: the columns become orthonormal, the triangle `[count, count]` (row-major, diagonal >= 0) is returned. Modified
 * Gram-Schmidt, twice, which leaves a basis orthogonal to rounding whatever the condition (Giraud, Langou and Rozloznik,
 * 2005). A column that depends on those before it has zero on the diagonal and becomes a random direction, so that the
 * basis is whole also where the rank is not.
 * @internal
 */
export function orthonormalize({ rows, count, data }: Columns, seed: number): Float64Array {
  const triangle = new Float64Array(count * count);
  const basis: Float64Array[] = [];
  const clear = (column: Float64Array, j: number | undefined): void => {
    for (let pass = 0; pass < 2; pass++)
      for (const [i, earlier] of basis.entries()) {
        const along = dot(earlier, column);
        if (j !== undefined) triangle[i * count + j] += along;
        subtract(column, along, earlier);
      }
  };
  for (let j = 0; j < count; j++) {
    const column = data.subarray(j * rows, (j + 1) * rows);
    const before = Math.sqrt(dot(column, column));
    clear(column, j);
    let after = Math.sqrt(dot(column, column));
    if (after > DEPENDENT * before) triangle[j * count + j] = after;
    else {
      column.set(normals(rows, { seed, stream: FILLED + j }));
      clear(column, undefined);
      after = Math.sqrt(dot(column, column));
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
  const result = new Float64Array(rows * count);
  for (let j = 0; j < count; j++) {
    const sum = result.subarray(j * rows, (j + 1) * rows);
    for (let i = 0; i < inner; i++)
      subtract(sum, -weights(i, j), data.subarray(i * rows, (i + 1) * rows));
  }
  return { rows, count, data: result };
}
