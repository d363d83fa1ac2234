import { rangeError } from '../errors';
import type { Tensor } from '../types';

/** The first steps of an LDU factorization with row pivoting: `a ~ l diag(d) u`. @internal */
export interface PartialLdu {
  /** `[rows, steps]`, a permutation of unit lower triangular rows */
  l: Float64Array;
  d: Float64Array;
  /** `[steps, columns]`, unit upper triangular */
  u: Float64Array;
}

/**
 * `steps` steps of Gaussian elimination with partial pivoting in float64, in Crout's order: only the columns and rows that
 * are asked for are computed, (rows + columns) steps^2 multiplications instead of the cube of the size. They are those of
 * the full factorization.
 * @internal
 */
export function partialLdu(operation: string, a: Tensor, steps: number): PartialLdu {
  const [rows, columns] = a.shape;
  const l = new Float64Array(rows * steps);
  const d = new Float64Array(steps);
  const u = new Float64Array(steps * columns);
  const pivoted = new Uint8Array(rows);
  for (let k = 0; k < steps; k++) {
    let pivot = -1;
    for (let i = 0; i < rows; i++) {
      if (pivoted[i]) continue;
      let x = a.data[i * columns + k];
      for (let p = 0; p < k; p++) x -= l[i * steps + p] * d[p] * u[p * columns + k];
      l[i * steps + k] = x;
      if (pivot < 0 || Math.abs(x) > Math.abs(l[pivot * steps + k])) pivot = i;
    }
    d[k] = l[pivot * steps + k];
    if (d[k] === 0)
      throw rangeError(operation, `weight: expected ${steps} nonzero pivots, got zero at ${k}`);
    pivoted[pivot] = 1;
    for (let i = 0; i < rows; i++)
      if (i === pivot) l[i * steps + k] = 1;
      else if (!pivoted[i]) l[i * steps + k] /= d[k];
    const row = u.subarray(k * columns, (k + 1) * columns);
    for (let j = k; j < columns; j++) row[j] = a.data[pivot * columns + j];
    for (let p = 0; p < k; p++) {
      const times = l[pivot * steps + p] * d[p];
      for (let j = k; j < columns; j++) row[j] -= times * u[p * columns + j];
    }
    for (let j = k; j < columns; j++) row[j] /= d[k];
    row[k] = 1;
  }
  return { l, d, u };
}
