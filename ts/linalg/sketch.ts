import type { Tensor } from '../types';
import { readInteger } from './arguments';
import { type Columns, columnsOf, combine, orthonormalize, toTensor } from './columns';
import { svd } from './dense';
import { normals } from './philox';
import { multiplied } from './product';

/** How a randomised SVD is computed. */
export interface SketchOptions {
  /** Columns of the sketch beyond the rank; default 16. */
  oversample?: number;
  /**
   * Multiplications by `A A^T` before the projection; default 4. An error beyond the best one shrinks by the square of the
   * ratio of the singular values behind the rank and the sketch with each. More of them, or a wider sketch, serve spectra
   * that fall slowly.
   */
  powerIterations?: number;
  /** Of the sketch; default 0. The same seed gives the same result. */
  seed?: number;
}

/** @internal */
export const SKETCH_OPTIONS = ['oversample', 'powerIterations', 'seed'];

/** A matrix by its products alone. @internal */
export interface LinearMap {
  rows: number;
  columns: number;
  /** the product with `[columns, n]` */
  apply(x: Tensor): Promise<Tensor>;
  /** the transpose's product with `[rows, n]` */
  applyTransposed(x: Tensor): Promise<Tensor>;
}

/** @internal */
export function mapOf(a: Tensor): LinearMap {
  const [rows, columns] = a.shape;
  return {
    rows,
    columns,
    apply: (x) => multiplied(a, x),
    applyTransposed: (x) => multiplied(a, x, { transposeA: true }),
  };
}

/** `A ~ u diag(s) v^T`, s falling, the largest element of each column of v positive. @internal */
export interface LowRank {
  u: Columns;
  s: readonly number[];
  v: Columns;
}

/** @internal */
export function readSketch(operation: string, options: SketchOptions): Required<SketchOptions> {
  return {
    oversample: readInteger(operation, 'oversample', options.oversample, 16, 0),
    powerIterations: readInteger(operation, 'powerIterations', options.powerIterations, 4, 0),
    seed: readInteger(operation, 'seed', options.seed, 0, 0),
  };
}

/**
 * Halko, Martinsson and Tropp, Finding Structure with Randomness, 2011 (arXiv:0909.4061): algorithm 4.4, a Gaussian sketch and
 * power iterations with a fresh basis after every product, then 5.1. Products are float32, bases and the small SVD float64:
 * values and vectors are exact to float32's rounding of the largest singular value. A sketch as wide as the matrix leaves
 * nothing out.
 * @internal
 */
export async function sketchSvd(
  map: LinearMap,
  rank: number,
  { oversample, powerIterations, seed }: Required<SketchOptions>,
): Promise<LowRank> {
  const { rows, columns } = map;
  const width = Math.min(rows, columns, rank + oversample);
  const sketch = { data: normals(columns * width, { seed }), shape: [columns, width] };
  let left = columnsOf(await map.apply(sketch));
  orthonormalize(left, seed);
  let right = columnsOf(await map.applyTransposed(toTensor(left, width)));
  let triangle = orthonormalize(right, seed);
  // The whole space needs no power, but a basis that is not as ill-conditioned as the sketch.
  const rounds = width < Math.min(rows, columns) ? powerIterations : 1;
  for (let i = 0; i < rounds; i++) {
    left = columnsOf(await map.apply(toTensor(right, width)));
    orthonormalize(left, seed);
    right = columnsOf(await map.applyTransposed(toTensor(left, width)));
    triangle = orthonormalize(right, seed);
  }
  // left^T A = (right triangle)^T, and triangle = u diag(s) v^T
  const { u, s, v } = svd({ size: width, data: triangle });
  const factors = {
    u: combine(left, (i, j) => v.data[i * width + j], rank),
    s: s.slice(0, rank),
    v: combine(right, (i, j) => u.data[i * width + j], rank),
  };
  fixSigns(factors);
  return factors;
}

/** @internal */
export function fixSigns({ u, v }: LowRank): void {
  for (let k = 0; k < v.count; k++) {
    const column = v.data.subarray(k * v.rows, (k + 1) * v.rows);
    let largest = 0;
    for (const x of column) if (Math.abs(x) > Math.abs(largest)) largest = x;
    if (largest >= 0) continue;
    for (let i = 0; i < v.rows; i++) column[i] = -column[i];
    for (let i = k * u.rows; i < (k + 1) * u.rows; i++) u.data[i] = -u.data[i];
  }
}
