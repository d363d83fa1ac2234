import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** x, y and dY have one dtype. */
type Dtypes = { lead: 'x'; same: 'y' | 'dY' | 'dx'; either: never };

/** Inputs of {@link l2norm}. */
export interface L2normInputs {
  /** `[...,D]` */
  x: Tensor;
}

/** Options of {@link l2norm}. */
export interface L2normOptions extends CallOptions<'y'> {
  /** Added to the sum of squares; default 1e-6. */
  eps?: number;
}

/** What {@link l2norm} returns. */
export interface L2normResult {
  /** `[...,D]` */
  y: ResultTensor;
}

/** Inputs of {@link l2normBackward}. */
export interface L2normBackwardInputs extends L2normInputs {
  /** Gradient of y, `[...,D]`. */
  dY: Tensor;
}

/** Options of {@link l2normBackward}. */
export interface L2normBackwardOptions extends GradientOption, CallOptions<'dx'> {
  /** Added to the sum of squares; default 1e-6. */
  eps?: number;
}

/** What {@link l2normBackward} returns. */
export interface L2normBackwardResult {
  /** `[...,D]` */
  dx: ResultTensor;
}

/**
 * Vectors of unit length, over the last dimension, computed in float32: `y = x / sqrt(sum(x^2) + eps)`. What delta-rule
 * layers do to queries and keys; the recurrences have it built in as `qkL2norm`.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value
 * @see Yang et al., Parallelizing Linear Transformers with the Delta Rule, 2024 (arXiv:2406.06484)
 */
export const l2norm: AsyncLayer<Dtypes, L2normInputs, L2normOptions, L2normResult> =
  asynchronous('l2norm');

/**
 * {@link l2norm} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const l2normSync: SyncLayer<Dtypes, L2normInputs, L2normOptions, L2normResult> =
  synchronous('l2norm');

/**
 * Gradient of {@link l2norm} from dY `[...,D]`: `dx = (dY - y sum(y dY)) / sqrt(sum(x^2) + eps)`. Along x the terms
 * cancel: what is left there, all of it where D = 1, is float32 rounding.
 * @throws (rejects) as {@link l2norm}
 */
export const l2normBackward: AsyncLayerBackward<
  Dtypes,
  L2normBackwardInputs,
  L2normBackwardOptions,
  L2normBackwardResult
> = asynchronous('l2normBackward');

/**
 * {@link l2normBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const l2normBackwardSync: SyncLayerBackward<
  Dtypes,
  L2normBackwardInputs,
  L2normBackwardOptions,
  L2normBackwardResult
> = synchronous('l2normBackward');
