import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** bases, sum and dSum have one dtype, float32 where bases are drawn; coefficients have it too or are float32. */
type Dtypes = {
  lead: 'bases';
  same: 'sum' | 'dSum' | 'dBases';
  either: 'coefficients' | 'dCoefficients';
};

/** Which bases there are where none are given, and what the heads share. */
export interface BasisOptions {
  /** What coefficients `[heads,count]` divide, `'rows'` (default) or `'columns'`: each head has a run of as many. */
  headAxis?: 'rows' | 'columns';
  /** Rows of a basis; needed, and allowed, where no bases are given. So are the following. */
  rows?: number;
  /** Columns of a basis. */
  columns?: number;
  /** 0 to 2^53 - 1; default 0. */
  seed?: number;
  /** Basis i has the values of stream `stream + i`; default 0. */
  stream?: number;
  /** Standard deviation of the values; default 1. */
  deviation?: number;
}

/** Inputs of {@link basisCombination}. */
export interface BasisCombinationInputs {
  /** `[count]`, or `[heads,count]`; of the bases' dtype or float32 */
  coefficients: Tensor;
  /** `[count,rows,columns]`; left out, they are drawn from a seed */
  bases?: Tensor;
}

/** Options of {@link basisCombination}. */
export interface BasisCombinationOptions extends BasisOptions, CallOptions<'sum'> {}

/** What {@link basisCombination} returns. */
export interface BasisCombinationResult {
  /** `[rows,columns]`, of the bases' dtype; float32 where they are drawn */
  sum: ResultTensor;
}

/** Inputs of {@link basisCombinationBackward}. */
export interface BasisCombinationBackwardInputs extends BasisCombinationInputs {
  /** Gradient of sum, `[rows,columns]`. */
  dSum: Tensor;
}

/** Options of {@link basisCombinationBackward}. */
export interface BasisCombinationBackwardOptions
  extends GradientOption,
    BasisOptions,
    CallOptions<'dCoefficients' | 'dBases'> {}

/** What {@link basisCombinationBackward} returns. */
export interface BasisCombinationBackwardResult {
  /** Shape of coefficients. */
  dCoefficients: ResultTensor;
  /** Shape of bases, where they are given. */
  dBases?: ResultTensor;
}

/**
 * A weighted sum of matrices: `sum = sum_i c_i bases_i`, or with coefficients `[heads,count]` another one for each head's
 * run of rows or columns. Sums are float64 in ascending i, rounded once.
 *
 * Without `bases` they are random and never stored: basis i has, row by row, the first values of stream `stream + i` of
 * Philox4x32-10 with key `seed`, made normal by Box and Muller's transform, times `deviation`. So NOLA's factors
 * `a = sum_i alpha_i A_i` and `b = sum_j beta_j B_j` are kept as their coefficients and a seed. Given bases with heads over
 * the columns of a and over the rows of b are multi-head adapter routing.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument, unknown key, or a seed beside bases; RangeError for a wrong shape or value, or heads that do not divide the axis
 * @see Koohpayegani et al., NOLA: Compressing LoRA using Linear Combination of Random Basis, 2023 (arXiv:2310.02556)
 * @see Caccia et al., Multi-Head Adapter Routing for Cross-Task Generalization, 2022 (arXiv:2211.03831)
 */
export const basisCombination: AsyncLayer<
  Dtypes,
  BasisCombinationInputs,
  BasisCombinationOptions,
  BasisCombinationResult
> = asynchronous('basisCombination');

/**
 * {@link basisCombination} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const basisCombinationSync: SyncLayer<
  Dtypes,
  BasisCombinationInputs,
  BasisCombinationOptions,
  BasisCombinationResult
> = synchronous('basisCombination');

/**
 * Gradients of {@link basisCombination} from dSum: `dCoefficients[h,i]` is the product of basis i and dSum over what head h
 * has, `dBases_i = c_i dSum`.
 * @throws (rejects) as {@link basisCombination}
 */
export const basisCombinationBackward: AsyncLayerBackward<
  Dtypes,
  BasisCombinationBackwardInputs,
  BasisCombinationBackwardOptions,
  BasisCombinationBackwardResult
> = asynchronous('basisCombinationBackward');

/**
 * {@link basisCombinationBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const basisCombinationBackwardSync: SyncLayerBackward<
  Dtypes,
  BasisCombinationBackwardInputs,
  BasisCombinationBackwardOptions,
  BasisCombinationBackwardResult
> = synchronous('basisCombinationBackward');
