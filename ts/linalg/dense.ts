/**
 * Factorizations of small square matrices in float64 by ml-matrix (JAMA's algorithms: Golub-Kahan SVD, Householder
 * tridiagonalisation and QL for symmetric matrices). Time grows with the cube of the size: 0.1 s at 150, seconds at 500. All
 * that is large is brought down to them first.
 */
import type * as Library from 'ml-matrix';

let library: typeof Library | undefined;

/** Loaded at first use: most programs that load this package need none of it. */
function load(): typeof Library {
  library ??= require('ml-matrix') as typeof Library;
  return library;
}

/** Row-major, `size` by `size`. @internal */
export interface Square {
  readonly size: number;
  readonly data: Float64Array;
}

function toLibrary({ size, data }: Square): Library.Matrix {
  const { Matrix } = load();
  const matrix = new Matrix(size, size);
  for (let i = 0; i < size; i++)
    for (let j = 0; j < size; j++) matrix.set(i, j, data[i * size + j]);
  return matrix;
}

function fromLibrary(matrix: Library.AbstractMatrix): Square {
  const size = matrix.rows;
  const data = new Float64Array(size * size);
  for (let i = 0; i < size; i++)
    for (let j = 0; j < size; j++) data[i * size + j] = matrix.get(i, j);
  return { size, data };
}

/** `a = u diag(s) v^T`, s falling. @internal */
export interface SquareSvd {
  u: Square;
  s: readonly number[];
  v: Square;
}

/** @internal */
export function svd(a: Square): SquareSvd {
  const { SVD } = load();
  const { leftSingularVectors, rightSingularVectors, diagonal } = new SVD(toLibrary(a));
  return {
    u: fromLibrary(leftSingularVectors),
    s: diagonal,
    v: fromLibrary(rightSingularVectors),
  };
}

/** `a = vectors diag(values) vectors^T` of a symmetric matrix, values rising. @internal */
export interface SymmetricEigen {
  values: readonly number[];
  vectors: Square;
}

/** @internal */
export function symmetricEigen(a: Square): SymmetricEigen {
  const { EVD } = load();
  const { realEigenvalues, eigenvectorMatrix } = new EVD(toLibrary(a), { assumeSymmetric: true });
  return { values: realEigenvalues, vectors: fromLibrary(eigenvectorMatrix) };
}

/** @internal */
export function multiply(a: Square, b: Square): Square {
  const { size } = a;
  const data = new Float64Array(size * size);
  for (let i = 0; i < size; i++)
    for (let k = 0; k < size; k++) {
      const factor = a.data[i * size + k];
      for (let j = 0; j < size; j++) data[i * size + j] += factor * b.data[k * size + j];
    }
  return { size, data };
}

/** @internal */
export function transpose({ size, data }: Square): Square {
  const result = new Float64Array(size * size);
  for (let i = 0; i < size; i++)
    for (let j = 0; j < size; j++) result[j * size + i] = data[i * size + j];
  return { size, data: result };
}

/**
 * The pseudo-inverse of a float32 matrix: singular values below size times float32's rounding of the largest are zeros.
 * @internal
 */
export function pseudoInverse(a: Square): Square {
  const { u, s, v } = svd(a);
  const smallest = a.size * 2 ** -23 * s[0];
  const scaled = transpose(u);
  for (let k = 0; k < a.size; k++)
    for (let j = 0; j < a.size; j++) scaled.data[k * a.size + j] *= s[k] > smallest ? 1 / s[k] : 0;
  return multiply(v, scaled);
}
