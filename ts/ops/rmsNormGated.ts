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

/** Which gated norm it is. */
export interface GatedNormOptions {
  /** Added to the mean square; default 1e-6. */
  eps?: number;
  /** What the gate goes through; default `'silu'`, which is also called swish. */
  activation?: 'silu' | 'sigmoid';
  /** Default true: the norm, then the gate. false: the norm of what has been gated, as in Mamba-2. */
  normBeforeGate?: boolean;
}

/** Options of {@link rmsNormGated}. */
export interface RmsNormGatedOptions extends GatedNormOptions, CallOptions<'y'> {}

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
  extends GatedNormOptions,
    GradientOption,
    CallOptions<'dx' | 'dGate' | 'dWeight'> {}

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
 * {@link rmsNorm} and a gate, over the last dimension, computed in float32:
 *
 *     y = rmsNorm(x) * weight * act(gate)            normBeforeGate, the default
 *     y = rmsNorm(x * act(gate)) * weight            normBeforeGate: false
 *
 * with `rmsNorm(x) = x / sqrt(mean(x^2) + eps)` and `act(gate)` = gate * sigmoid(gate) or, with `activation: 'sigmoid'`,
 * sigmoid(gate). The output norm of Gated DeltaNet (the default), of Kimi Delta Attention (sigmoid) and of Mamba-2 (norm
 * after the gate). gate and y have the dtype of x; weight has it too or is float32.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value
 * @see Yang et al., Gated Delta Networks, 2024 (arXiv:2412.06464); Dao and Gu, Transformers are SSMs, 2024
 * (arXiv:2405.21060); Kimi Team, Kimi Linear, 2025 (arXiv:2510.26692)
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
