import type { ResultTensor, Tensor } from '../types';
import { checkKeys, checkMatrix, readInteger } from './arguments';
import { toTensor, toTransposedTensor } from './columns';
import { mapOf, readSketch, SKETCH_OPTIONS, type SketchOptions, sketchSvd } from './sketch';

/** Inputs of {@link randomizedSvd}. */
export interface RandomizedSvdInputs {
  /** `[M,N]` */
  a: Tensor;
}

/** Options of {@link randomizedSvd}. */
export interface RandomizedSvdOptions extends SketchOptions {
  /** Singular values and vectors to compute, 1 to min(M,N). */
  rank: number;
}

/** What {@link randomizedSvd} returns. */
export interface RandomizedSvdResult {
  /** Left singular vectors, `[M,rank]`, orthonormal also where singular values are zero. */
  u: ResultTensor;
  /** Singular values, falling, `[rank]`. */
  s: ResultTensor;
  /** Right singular vectors, `[rank,N]`, the largest element of each row positive. */
  vt: ResultTensor;
}

/**
 * The leading singular values and vectors of a matrix, `a ~ u diag(s) vt`, by a randomised sketch with power iterations.
 * The products are the engine's float32 ones; bases are orthogonalised and the small SVD is taken in float64.
 *
 * @throws (rejects) TypeError for a wrong type or unknown key; RangeError for a wrong shape or value, or elements that are not finite
 * @see Halko, Martinsson and Tropp, Finding Structure with Randomness, 2011 (arXiv:0909.4061)
 */
export async function randomizedSvd(
  inputs: RandomizedSvdInputs,
  options: RandomizedSvdOptions,
): Promise<RandomizedSvdResult> {
  const operation = 'randomizedSvd';
  checkKeys(operation, 'an input', inputs, ['a']);
  checkKeys(operation, 'an option', options, ['rank', ...SKETCH_OPTIONS]);
  const a = checkMatrix(operation, 'a', inputs.a);
  const rank = readInteger(operation, 'rank', options.rank, undefined, 1, Math.min(...a.shape));
  const { u, s, v } = await sketchSvd(mapOf(a), rank, readSketch(operation, options));
  return {
    u: toTensor(u, rank),
    s: { data: Float32Array.from(s), shape: [rank], dtype: 'f32' },
    vt: toTransposedTensor(v, rank),
  };
}
