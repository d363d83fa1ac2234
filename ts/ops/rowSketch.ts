import { asynchronous, synchronous } from '../marshal';
import type {
  AsyncOperation,
  CallOptions,
  FloatTensor,
  ResultTensor,
  SyncOperation,
  Tensor,
} from '../types';

/** Which random matrix S is meant. */
export interface SketchSeed {
  /** 0 to 2^53 - 1; default 0. Another one for every step. */
  seed?: number;
  /** 0 to 2^32 - 1; default 0. Another one for every layer. */
  stream?: number;
}

/** Inputs of {@link rowSketch}. */
export interface RowSketchInputs {
  /** `[...,in]`: M rows, of any float dtype */
  x: FloatTensor;
}

/** Options of {@link rowSketch}. */
export interface RowSketchOptions extends SketchSeed, CallOptions<'sketch'> {
  /** Rows of the sketch, 1 or more. */
  size: number;
}

/** What {@link rowSketch} returns. */
export interface RowSketchResult {
  /** `[size,in]`, float32 */
  sketch: ResultTensor;
}

/** Inputs of {@link rowSketchGradient}. */
export interface RowSketchGradientInputs {
  /** Gradient of `y = x W^T`, `[...,out]`: the rows of x, of any float dtype. */
  dY: FloatTensor;
  /** `[size,in]`: what was kept of x */
  sketch: Tensor;
}

/** Options of {@link rowSketchGradient}: the seed and the stream of the sketch. */
export interface RowSketchGradientOptions extends SketchSeed, CallOptions<'dWeight'> {}

/** What {@link rowSketchGradient} returns. */
export interface RowSketchGradientResult {
  /** `[out,in]`, float32 */
  dWeight: ResultTensor;
}

/**
 * A random summary of a layer's input, to be kept for the backward in place of it: `sketch = S^T x`. S `[M,size]` is
 * normal with deviation `1 / sqrt(size)`, so that the mean of `S S^T` is the identity; its element `[m,j]` is value
 * `m size + j` of stream `stream` of Philox4x32-10 with key `seed`, and it is never stored as a whole.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value
 * @see Bershatsky et al., Memory-Efficient Backpropagation through Large Linear Layers, 2022 (arXiv:2201.13195)
 */
export const rowSketch: AsyncOperation<RowSketchInputs, RowSketchOptions, RowSketchResult> =
  asynchronous('rowSketch');

/**
 * {@link rowSketch} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const rowSketchSync: SyncOperation<RowSketchInputs, RowSketchOptions, RowSketchResult> =
  synchronous('rowSketch');

/**
 * An unbiased estimate of the gradient of W in `y = x W^T` from a sketch of x: `dWeight = (S^T dY)^T sketch`, whose mean over
 * seeds is `dY^T x`. The mean of its squared error is `(|dY|^2 |x|^2 + |dY^T x|^2) / size`, in Frobenius norms.
 * @throws (rejects) as {@link rowSketch}
 */
export const rowSketchGradient: AsyncOperation<
  RowSketchGradientInputs,
  RowSketchGradientOptions,
  RowSketchGradientResult
> = asynchronous('rowSketchGradient');

/**
 * {@link rowSketchGradient} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const rowSketchGradientSync: SyncOperation<
  RowSketchGradientInputs,
  RowSketchGradientOptions,
  RowSketchGradientResult
> = synchronous('rowSketchGradient');
