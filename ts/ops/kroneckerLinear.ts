import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** x, y, dY and dx have one dtype; a, b and addend have it too or are float32. Sums are float32. */
type Dtypes = { lead: 'x'; same: 'y' | 'dY' | 'dx'; either: 'a' | 'b' | 'addend' | 'da' | 'db' };

/** Inputs of {@link kroneckerLinear}. */
export interface KroneckerLinearInputs {
  /** `[..., inA * inB]` */
  x: Tensor;
  /** `[outA,inA]`, or `[terms,outA,inA]` */
  a: Tensor;
  /** `[outB,inB]`, or `[terms,outB,inB]` */
  b: Tensor;
  /** `[..., outA * outB]`, added to the product: a base layer's output */
  addend?: Tensor;
}

/** Options of {@link kroneckerLinear}. */
export interface KroneckerLinearOptions extends CallOptions<'y'> {
  /** Factor of the product; default 1. */
  scale?: number;
}

/** What {@link kroneckerLinear} returns. */
export interface KroneckerLinearResult {
  /** `[..., outA * outB]` */
  y: ResultTensor;
}

/** Inputs of {@link kroneckerLinearBackward}. */
export interface KroneckerLinearBackwardInputs {
  /** As in the forward. */
  x: Tensor;
  /** As in the forward. */
  a: Tensor;
  /** As in the forward. */
  b: Tensor;
  /** Gradient of y, `[..., outA * outB]`. */
  dY: Tensor;
}

/** Options of {@link kroneckerLinearBackward}. */
export interface KroneckerLinearBackwardOptions
  extends GradientOption,
    CallOptions<'dx' | 'da' | 'db'> {
  /** As in the forward. */
  scale?: number;
}

/** What {@link kroneckerLinearBackward} returns. */
export interface KroneckerLinearBackwardResult {
  /** Shape of x. */
  dx: ResultTensor;
  /** Shape of a. */
  da: ResultTensor;
  /** Shape of b. */
  db: ResultTensor;
}

/**
 * Product with a sum of Kronecker products, none of which is formed: `y = addend + scale x (sum_i a_i (x) b_i)^T`,
 *
 *     y[m, p outB + q] = addend[m, p outB + q] + scale * sum over i, j, k of a_i[p,j] b_i[q,k] x[m, j inB + k]
 *
 * computed as `a_i X b_i^T` with a row of x as a matrix X `[inA,inB]`: `inA outB (inB + outA)` multiplications a row and
 * term, in place of `inA inB outA outB`. y has the dtype of x; a row's bits do not depend on the rows beside it.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value
 * @see Mahabadi, Henderson and Ruder, Compacter: Efficient Low-Rank Hypercomplex Adapter Layers, 2021 (arXiv:2106.04647)
 * @see Marjit et al., DiffuseKronA: A Parameter Efficient Fine-tuning Method for Personalized Diffusion Models, 2024 (arXiv:2402.17412)
 */
export const kroneckerLinear: AsyncLayer<
  Dtypes,
  KroneckerLinearInputs,
  KroneckerLinearOptions,
  KroneckerLinearResult
> = asynchronous('kroneckerLinear');

/**
 * {@link kroneckerLinear} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const kroneckerLinearSync: SyncLayer<
  Dtypes,
  KroneckerLinearInputs,
  KroneckerLinearOptions,
  KroneckerLinearResult
> = synchronous('kroneckerLinear');

/**
 * Gradients of {@link kroneckerLinear} from dY: dx, da and db. That of `addend` is dY itself. Sums are added in an order
 * fixed by shape.
 * @throws (rejects) as {@link kroneckerLinear}
 */
export const kroneckerLinearBackward: AsyncLayerBackward<
  Dtypes,
  KroneckerLinearBackwardInputs,
  KroneckerLinearBackwardOptions,
  KroneckerLinearBackwardResult
> = asynchronous('kroneckerLinearBackward');

/**
 * {@link kroneckerLinearBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const kroneckerLinearBackwardSync: SyncLayerBackward<
  Dtypes,
  KroneckerLinearBackwardInputs,
  KroneckerLinearBackwardOptions,
  KroneckerLinearBackwardResult
> = synchronous('kroneckerLinearBackward');
