import { asynchronous, synchronous } from '../marshal';
import type { AsyncOperation, CallOptions, ResultTensor, SyncOperation, Tensor } from '../types';

/** Inputs of {@link rmsNormGated}. */
export interface RmsNormGatedInputs {
  /** `[...,D]` */
  x: Tensor;
  /** `[...,D]` */
  gate: Tensor;
  /** `[D]`; absent means ones */
  weight?: Tensor;
}

/** Options of {@link rmsNormGated}. */
export interface RmsNormGatedOptions extends CallOptions<'y'> {
  /** Added to the mean square; default 1e-6. */
  eps?: number;
}

/** What {@link rmsNormGated} returns. */
export interface RmsNormGatedResult {
  /** `[...,D]` */
  y: ResultTensor;
}

/** Inputs of {@link rmsNormGatedBackward}. */
export interface RmsNormGatedBackwardInputs extends RmsNormGatedInputs {
  /** Gradient of y, `[...,D]`. */
  dY: Tensor;
}

/** Options of {@link rmsNormGatedBackward}. */
export interface RmsNormGatedBackwardOptions extends CallOptions<'dx' | 'dGate' | 'dWeight'> {
  /** Added to the mean square; default 1e-6. */
  eps?: number;
}

/** What {@link rmsNormGatedBackward} returns. */
export interface RmsNormGatedBackwardResult {
  /** `[...,D]` */
  dx: ResultTensor;
  /** `[...,D]` */
  dGate: ResultTensor;
  /** `[D]`, when weight was given */
  dWeight?: ResultTensor;
}

/**
 * {@link rmsNorm} times a swish gate, over the last dimension, float32:
 * `y = x / sqrt(mean(x^2) + eps) * weight * gate * sigmoid(gate)`. The output norm of Gated DeltaNet.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value
 */
export const rmsNormGated: AsyncOperation<
  RmsNormGatedInputs,
  RmsNormGatedOptions,
  RmsNormGatedResult
> = asynchronous('rmsNormGated');

/**
 * {@link rmsNormGated} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const rmsNormGatedSync: SyncOperation<
  RmsNormGatedInputs,
  RmsNormGatedOptions,
  RmsNormGatedResult
> = synchronous('rmsNormGated');

/**
 * Gradients of {@link rmsNormGated} from dY `[...,D]`.
 * @throws (rejects) as {@link rmsNormGated}
 */
export const rmsNormGatedBackward: AsyncOperation<
  RmsNormGatedBackwardInputs,
  RmsNormGatedBackwardOptions,
  RmsNormGatedBackwardResult
> = asynchronous('rmsNormGatedBackward');

/**
 * {@link rmsNormGatedBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const rmsNormGatedBackwardSync: SyncOperation<
  RmsNormGatedBackwardInputs,
  RmsNormGatedBackwardOptions,
  RmsNormGatedBackwardResult
> = synchronous('rmsNormGatedBackward');
