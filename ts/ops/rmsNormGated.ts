import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** x, gate, y and dY have one dtype; weight has it too or is float32. */
type Dtypes = {
  lead: 'x';
  same: 'gate' | 'y' | 'dY' | 'dx' | 'dGate';
  either: 'weight' | 'dWeight';
};

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
export interface RmsNormGatedBackwardOptions
  extends GradientOption,
    CallOptions<'dx' | 'dGate' | 'dWeight'> {
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
 * {@link rmsNorm} times a swish gate, over the last dimension, computed in float32:
 * `y = x / sqrt(mean(x^2) + eps) * weight * gate * sigmoid(gate)`. The output norm of Gated DeltaNet. gate and y
 * have the dtype of x; weight has it too or is float32.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value
 */
export const rmsNormGated: AsyncLayer<
  Dtypes,
  RmsNormGatedInputs,
  RmsNormGatedOptions,
  RmsNormGatedResult
> = asynchronous('rmsNormGated');

/**
 * {@link rmsNormGated} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const rmsNormGatedSync: SyncLayer<
  Dtypes,
  RmsNormGatedInputs,
  RmsNormGatedOptions,
  RmsNormGatedResult
> = synchronous('rmsNormGated');

/**
 * Gradients of {@link rmsNormGated} from dY `[...,D]`.
 * @throws (rejects) as {@link rmsNormGated}
 */
export const rmsNormGatedBackward: AsyncLayerBackward<
  Dtypes,
  RmsNormGatedBackwardInputs,
  RmsNormGatedBackwardOptions,
  RmsNormGatedBackwardResult
> = asynchronous('rmsNormGatedBackward');

/**
 * {@link rmsNormGatedBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const rmsNormGatedBackwardSync: SyncLayerBackward<
  Dtypes,
  RmsNormGatedBackwardInputs,
  RmsNormGatedBackwardOptions,
  RmsNormGatedBackwardResult
> = synchronous('rmsNormGatedBackward');
