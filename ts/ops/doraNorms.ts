import type { PackedWeight } from '../lora/packedWeight';
import { asynchronous, synchronous } from '../marshal';
import type {
  AsyncOperation,
  CallOptions,
  FloatTensor,
  ResultTensor,
  SyncOperation,
  Tensor,
} from '../types';

/** Inputs of {@link doraNorms}; the float dtypes of weight, a and b are independent. */
export interface DoraNormsInputs {
  /** W `[out,in]`; or */
  weight?: FloatTensor;
  /** W packed: what it stands for counts */
  base?: PackedWeight;
  /** `[rank,in]` */
  a: FloatTensor;
  /** `[out,rank]`, or `[out,midRank]` with a matrix between */
  b: FloatTensor;
  /** `[midRank,rank]`, or a diagonal `[rank]` */
  mid?: Tensor;
}

/** Options of {@link doraNorms}. */
export interface DoraNormsOptions extends CallOptions<'norms'> {
  /** Factor of b mid a; default 1. */
  scale?: number;
}

/** What {@link doraNorms} returns. */
export interface DoraNormsResult {
  /** `[out]`, float32 */
  norms: ResultTensor;
}

/**
 * Euclidean norms of the rows of `W + scale b mid a`, of which no more than a few elements exist at a time. Elements and
 * sums are float64 and a norm is rounded once, so that it is exact even where the adapter takes away what W has.
 *
 * DoRA divides by them; {@link doraAdapter} does so.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key, or both `weight` and `base`; RangeError for a wrong shape or value; Error for a base that is disposed
 * @see Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, 2024 (arXiv:2402.09353)
 */
export const doraNorms: AsyncOperation<DoraNormsInputs, DoraNormsOptions, DoraNormsResult> =
  asynchronous('doraNorms');

/**
 * {@link doraNorms} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const doraNormsSync: SyncOperation<DoraNormsInputs, DoraNormsOptions, DoraNormsResult> =
  synchronous('doraNorms');
