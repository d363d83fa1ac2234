import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** x, y and dY have one dtype; weight has it too or is float32. */
type Dtypes = { lead: 'x'; same: 'y' | 'dY' | 'dx'; either: 'weight' | 'dWeight' };

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
export interface RmsNormBackwardOptions extends GradientOption, CallOptions<'dx' | 'dWeight'> {
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
 * Root mean square normalization over the last dimension: `y = x / sqrt(mean(x^2) + eps) * weight`, computed in float32.
 * y has the dtype of x; weight has it too or is float32.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value
 * @see Zhang and Sennrich, Root Mean Square Layer Normalization, 2019 (arXiv:1910.07467)
 */
export const rmsNorm: AsyncLayer<Dtypes, RmsNormInputs, RmsNormOptions, RmsNormResult> =
  asynchronous('rmsNorm');

/**
 * {@link rmsNorm} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const rmsNormSync: SyncLayer<Dtypes, RmsNormInputs, RmsNormOptions, RmsNormResult> =
  synchronous('rmsNorm');

/**
 * Gradients of {@link rmsNorm} from dY `[...,D]`.
 * @throws (rejects) as {@link rmsNorm}
 */
export const rmsNormBackward: AsyncLayerBackward<
  Dtypes,
  RmsNormBackwardInputs,
  RmsNormBackwardOptions,
  RmsNormBackwardResult
> = asynchronous('rmsNormBackward');

/**
 * {@link rmsNormBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const rmsNormBackwardSync: SyncLayerBackward<
  Dtypes,
  RmsNormBackwardInputs,
  RmsNormBackwardOptions,
  RmsNormBackwardResult
> = synchronous('rmsNormBackward');
