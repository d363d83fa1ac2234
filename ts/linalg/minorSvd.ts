import type { Tensor } from '../types';
import {
  type Columns,
  columnsOf,
  columnsOfTransposed,
  combine,
  dots,
  orthonormalize,
  sliceColumns,
  toTransposedTensor,
} from './columns';
import { svd } from './dense';
import { normals } from './philox';
import { multiplied } from './product';
import { fixSigns, type LowRank, type SketchOptions } from './sketch';

/** Columns that are orthogonalised together. */
const PANEL = 32;

/**
 * The last `rank` singular values of the thin SVD and their vectors, values falling. Inverse subspace iteration on the
 * triangle of a QR factorization of the matrix or of its transpose, whichever is tall; each of the iterations shrinks an
 * error by the square of the ratio of the singular values at the rank and behind the sketch. The triangle has float32's
 * rounding, so singular values that differ by less than some 1e-6 of the largest one are not told apart, and what stands on
 * the long side for those that are zero is any direction.
 * @internal
 */
export async function minorSvd(
  matrix: Tensor,
  rank: number,
  { oversample, powerIterations, seed }: Required<SketchOptions>,
): Promise<LowRank> {
  const [rows, columns] = matrix.shape;
  const wide = rows <= columns;
  const size = Math.min(rows, columns);
  const width = Math.min(size, rank + oversample);
  const triangle = await triangleOf(wide ? matrix : transposed(matrix));
  const basis = {
    rows: size,
    count: width,
    data: Float64Array.from(normals(size * width, { seed })),
  };
  orthonormalize(basis, seed);
  for (let i = 0; i < powerIterations; i++) {
    invert(triangle, basis);
    orthonormalize(basis, seed);
  }
  // What the matrix makes of the basis, [long side, width], and its SVD.
  const short = toTransposedTensor(basis, width);
  const image = columnsOf(await multiplied(matrix, short, { transposeA: wide, transposeB: true }));
  const { u, s, v } = svd({ size: width, data: orthonormalize(image, seed) });
  const last = (all: Columns, weights: Float64Array): Columns =>
    sliceColumns(
      combine(all, (i, j) => weights[i * width + j], width),
      width - rank,
      rank,
    );
  const [ofShort, ofLong] = [last(basis, v.data), last(image, u.data)];
  const factors = {
    u: wide ? ofShort : ofLong,
    s: s.slice(width - rank),
    v: wide ? ofLong : ofShort,
  };
  fixSigns(factors);
  return factors;
}

function transposed({ data, shape: [rows, columns] }: Tensor): Tensor {
  const result = new Float32Array(data.length);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) result[j * rows + i] = data[i * columns + j];
  return { data: result, shape: [columns, rows] };
}

interface Triangle {
  size: number;
  /** upper, row-major */
  data: Float32Array;
}

/**
 * R of `m^T = Q R`, for m `[size, length]`, by block Gram-Schmidt with everything twice: the products between panels are
 * float32, a panel is orthogonalised in float64.
 */
async function triangleOf({ data, shape: [size, length] }: Tensor): Promise<Triangle> {
  const triangle = { size, data: new Float32Array(size * size) };
  const q = new Float32Array(size * length); // rows are the columns of Q
  for (let start = 0; start < size; start += PANEL) {
    const count = Math.min(PANEL, size - start);
    const before = { data: q.subarray(0, start * length), shape: [start, length] };
    let panel: Tensor = {
      data: data.slice(start * length, (start + count) * length),
      shape: [count, length],
    };
    let within: Float64Array | undefined; // of the first pass
    const above = new Float64Array(start * count);
    for (let pass = 0; pass < 2; pass++) {
      if (start > 0) {
        const along = await multiplied(panel, before, { transposeB: true }); // [count, start]
        const part = await multiplied(along, before);
        panel = { data: panel.data.map((x, i) => x - part.data[i]), shape: panel.shape };
        for (let i = 0; i < start; i++)
          for (let j = 0; j < count; j++)
            if (!within) above[i * count + j] = along.data[j * start + i];
            else
              for (let k = 0; k <= j; k++)
                above[i * count + j] += along.data[k * start + i] * within[k * count + j];
      }
      const columns = columnsOfTransposed(panel);
      const corner = orthonormalize(columns, start);
      panel = toTransposedTensor(columns, count);
      within = within ? product(corner, within, count) : corner;
    }
    q.set(panel.data, start * length);
    for (let j = 0; j < count; j++) {
      for (let i = 0; i < start; i++) triangle.data[i * size + start + j] = above[i * count + j];
      for (let i = 0; i <= j; i++)
        triangle.data[(start + i) * size + start + j] = within![i * count + j];
    }
  }
  return liftDiagonal(triangle);
}

function product(a: Float64Array, b: Float64Array, size: number): Float64Array {
  const result = new Float64Array(size * size);
  for (let i = 0; i < size; i++)
    for (let k = i; k < size; k++)
      for (let j = k; j < size; j++) result[i * size + j] += a[i * size + k] * b[k * size + j];
  return result;
}

/** Inverse iteration wants no exact zero, and takes its rounding for one. */
function liftDiagonal({ size, data }: Triangle): Triangle {
  let largest = 0;
  for (let i = 0; i < size; i++) largest = Math.max(largest, data[i * size + i]);
  const least = largest * 2 ** -24 || 1;
  for (let i = 0; i < size; i++) data[i * size + i] = Math.max(data[i * size + i], least);
  return { size, data };
}

/** `(R^T R)^-1` times each column, in place and in float64. */
function invert({ size, data }: Triangle, { count, data: all }: Columns): void {
  const columns = Array.from({ length: count }, (_, c) => all.subarray(c * size, (c + 1) * size));
  const row = new Float64Array(size);
  for (let i = 0; i < size; i++) {
    for (let j = i; j < size; j++) row[j] = data[i * size + j];
    for (const x of columns) {
      const value = x[i] / row[i];
      x[i] = value;
      for (let j = i + 1; j < size; j++) x[j] -= row[j] * value;
    }
  }
  const sums = new Float64Array(count);
  for (let i = size - 1; i >= 0; i--) {
    for (let j = i; j < size; j++) row[j] = data[i * size + j];
    dots(columns, row, i + 1, sums);
    for (const [c, x] of columns.entries()) x[i] = (x[i] - sums[c]) / row[i];
  }
}
