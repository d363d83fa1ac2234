import { asynchronous, synchronous } from '../marshal';
import type {
  AsyncOperation,
  CallOptions,
  FloatTensor,
  ResultTensor,
  SyncOperation,
  Tensor,
} from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** x, y, dY and dx have one dtype; values and addend have it too or are float32. Sums are float32. */
type Dtypes = { lead: 'x'; same: 'y' | 'dY' | 'dx'; either: 'values' | 'addend' | 'dValues' };

/** a and b have one dtype; values are float32. */
type SddmmDtypes = { lead: 'a'; same: 'b'; either: never };

/** Indices of 32 or 64 bits. */
export interface AnyIndexTensor {
  readonly data: Int32Array | BigInt64Array;
  readonly shape: readonly number[];
  readonly dtype?: 'i32' | 'i64';
}

/**
 * Positions in a matrix S `[out,in]`, in one of two forms: COO (`rows` and `columns`) in any order, or CSR (`indptr` and
 * `columns`). A position may occur more than once: its values are added up. out and in are below 2^31.
 */
export interface SparsePositions {
  /** `[count]`: row of each value, 0 to out - 1; or */
  rows?: AnyIndexTensor;
  /** `[out + 1]`: values `indptr[i]` to `indptr[i + 1] - 1` are row i's */
  indptr?: AnyIndexTensor;
  /** `[count]`: column of each value, 0 to in - 1 */
  columns: AnyIndexTensor;
}

/** Inputs of {@link scatterAdd}. */
export interface ScatterAddInputs extends SparsePositions {
  /** `[out,in]`, updated; memory shared with no other input */
  w: FloatTensor;
  /** `[count]`, of the dtype of w or float32 */
  values: FloatTensor;
}

/** Options of {@link scatterAdd}. */
export interface ScatterAddOptions {
  /** Factor of the values; default 1. */
  scale?: number;
}

/** {@link scatterAdd} returns nothing: it works in place. */
export type ScatterAddResult = Record<string, never>;

/** Inputs of {@link spmm}. */
export interface SpmmInputs extends SparsePositions {
  /** `[...,in]` */
  x: Tensor;
  /** `[count]` */
  values: Tensor;
  /** `[...,out]`, added to the product: a base layer's output */
  addend?: Tensor;
}

/** Options of {@link spmm}. */
export interface SpmmOptions extends CallOptions<'y'> {
  /** Factor of the values; default 1. */
  scale?: number;
  /** out; needed where neither `indptr` nor `addend` tells it. */
  outFeatures?: number;
}

/** What {@link spmm} returns. */
export interface SpmmResult {
  /** `[...,out]` */
  y: ResultTensor;
}

/** Inputs of {@link spmmBackward}. */
export interface SpmmBackwardInputs extends SparsePositions {
  /** As in the forward. */
  x: Tensor;
  /** As in the forward. */
  values: Tensor;
  /** Gradient of y, `[...,out]`. */
  dY: Tensor;
}

/** Options of {@link spmmBackward}. */
export interface SpmmBackwardOptions extends GradientOption, CallOptions<'dx' | 'dValues'> {
  /** As in the forward. */
  scale?: number;
}

/** What {@link spmmBackward} returns. */
export interface SpmmBackwardResult {
  /** Shape of x. */
  dx: ResultTensor;
  /** `[count]`; values of one position have one gradient */
  dValues: ResultTensor;
}

/** Inputs of {@link sddmm}. */
export interface SddmmInputs extends SparsePositions {
  /** `[...,out]` */
  a: Tensor;
  /** `[...,in]`, with the leading dimensions of a */
  b: Tensor;
}

/** Options of {@link sddmm}. */
export interface SddmmOptions extends CallOptions<'values'> {
  /** Factor of the results; default 1. */
  scale?: number;
}

/** What {@link sddmm} returns. */
export interface SddmmResult {
  /** `[count]`, float32 */
  values: ResultTensor;
}

/**
 * Adds a sparse matrix to a dense one, in place: `w[row_p, column_p] += scale values_p`, in the order of p. The same call
 * with the opposite `scale` takes it out again, up to the rounding of the sums. An element in a half-width type is rounded
 * once, however many values it gets; elements at no position keep their bits.
 *
 * A sparse fine-tuning is applied so: SHiRA, composable sparse fine-tuning. The asynchronous form works on a copy and
 * writes w on completion; asynchronous updates of the same memory must not overlap.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key, or both `rows` and `indptr`; RangeError for a wrong shape, an index out of range, an `indptr` that does not rise from 0 to count, or memory that two arguments share
 * @see Ansell, Ponti, Korhonen and Vulić, Composable Sparse Fine-Tuning for Cross-Lingual Transfer, 2021 (arXiv:2110.07560)
 * @see Bhardwaj et al., Sparse High Rank Adapters, 2024 (arXiv:2406.13175)
 */
export const scatterAdd: AsyncOperation<ScatterAddInputs, ScatterAddOptions, ScatterAddResult> =
  asynchronous('scatterAdd');

/**
 * {@link scatterAdd} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const scatterAddSync: SyncOperation<ScatterAddInputs, ScatterAddOptions, ScatterAddResult> =
  synchronous('scatterAdd');

/**
 * Product with a sparse matrix S `[out,in]`: `y = addend + scale x S^T`,
 *
 *     y[m,i] = addend[m,i] + scale * sum over p with row_p = i of values_p x[m, column_p]
 *
 * A row's bits do not depend on the rows beside it. y has the dtype of x. SLTrain's sparse part beside its low-rank one.
 *
 * @throws (rejects) as {@link scatterAdd}
 * @see Han et al., SLTrain: a sparse plus low-rank approach for parameter and memory efficient pretraining, 2024 (arXiv:2406.02214)
 */
export const spmm: AsyncLayer<Dtypes, SpmmInputs, SpmmOptions, SpmmResult> = asynchronous('spmm');

/**
 * {@link spmm} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const spmmSync: SyncLayer<Dtypes, SpmmInputs, SpmmOptions, SpmmResult> = synchronous('spmm');

/**
 * Gradients of {@link spmm} from dY `[...,out]`: `dx = scale dY S` and, at S's positions alone,
 * `dValues_p = scale * sum over m of dY[m, row_p] x[m, column_p]`. That of `addend` is dY itself.
 * @throws (rejects) as {@link spmm}
 */
export const spmmBackward: AsyncLayerBackward<
  Dtypes,
  SpmmBackwardInputs,
  SpmmBackwardOptions,
  SpmmBackwardResult
> = asynchronous('spmmBackward');

/**
 * {@link spmmBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const spmmBackwardSync: SyncLayerBackward<
  Dtypes,
  SpmmBackwardInputs,
  SpmmBackwardOptions,
  SpmmBackwardResult
> = synchronous('spmmBackward');

/**
 * Elements of a product of dense matrices at given positions alone:
 *
 *     values_p = scale * sum over m of a[m, row_p] b[m, column_p]
 *
 * With a = dY and b = x it is the gradient of a weight `[out,in]` at the positions that are trained, which are the
 * gradients of {@link scatterAdd}'s values; the rest of it is never computed. Float32 within 256 rows, float64 across.
 *
 * @throws (rejects) as {@link scatterAdd}
 */
export const sddmm: AsyncLayer<SddmmDtypes, SddmmInputs, SddmmOptions, SddmmResult> =
  asynchronous('sddmm');

/**
 * {@link sddmm} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const sddmmSync: SyncLayer<SddmmDtypes, SddmmInputs, SddmmOptions, SddmmResult> =
  synchronous('sddmm');
