import { asynchronous, synchronous } from '../marshal';
import type { AsyncOperation, CallOptions, ResultTensor, SyncOperation, Tensor } from '../types';

/** Inputs of {@link rmsNorm}. */
export interface RmsNormInputs {
  /** `[...,D]` */
  x: Tensor;
  /** `[D]`; absent means ones */
  weight?: Tensor;
}

/** Options of {@link rmsNorm}. */
export interface RmsNormOptions extends CallOptions<'y'> {
  /** Added to the mean square; default 1e-6. */
  eps?: number;
}

/** What {@link rmsNorm} returns. */
export interface RmsNormResult {
  /** `[...,D]` */
  y: ResultTensor;
}

/** Inputs of {@link rmsNormBackward}. */
export interface RmsNormBackwardInputs extends RmsNormInputs {
  /** Gradient of y, `[...,D]`. */
  dY: Tensor;
}

/** Options of {@link rmsNormBackward}. */
export interface RmsNormBackwardOptions extends CallOptions<'dx' | 'dWeight'> {
  /** Added to the mean square; default 1e-6. */
  eps?: number;
}

/** What {@link rmsNormBackward} returns. */
export interface RmsNormBackwardResult {
  /** `[...,D]` */
  dx: ResultTensor;
  /** `[D]`, when weight was given */
  dWeight?: ResultTensor;
}

/**
 * Root mean square normalization over the last dimension, float32: `y = x / sqrt(mean(x^2) + eps) * weight`.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value
 * @see Zhang and Sennrich, Root Mean Square Layer Normalization, 2019 (arXiv:1910.07467)
 */
export const rmsNorm: AsyncOperation<RmsNormInputs, RmsNormOptions, RmsNormResult> =
  asynchronous('rmsNorm');

/**
 * {@link rmsNorm} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const rmsNormSync: SyncOperation<RmsNormInputs, RmsNormOptions, RmsNormResult> =
  synchronous('rmsNorm');

/**
 * Gradients of {@link rmsNorm} from dY `[...,D]`.
 * @throws (rejects) as {@link rmsNorm}
 */
export const rmsNormBackward: AsyncOperation<
  RmsNormBackwardInputs,
  RmsNormBackwardOptions,
  RmsNormBackwardResult
> = asynchronous('rmsNormBackward');

/**
 * {@link rmsNormBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const rmsNormBackwardSync: SyncOperation<
  RmsNormBackwardInputs,
  RmsNormBackwardOptions,
  RmsNormBackwardResult
> = synchronous('rmsNormBackward');
