import type { KvCache } from '../kvCache';
import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, ResultTensor, Tensor } from '../types';
import type { AttentionMaskOptions } from './attention';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** q, k, v, o and dO have one dtype; lambda, solution and residual are float32. */
type Dtypes = { lead: 'q'; same: 'k' | 'v' | 'o' | 'dO' | 'dq' | 'dk' | 'dv'; either: never };

/**
 * Tensors of {@link localLinearAttention}. B batch, T queries, S keys, H heads, HKV heads of keys and values (a divisor
 * of H).
 */
export interface LocalLinearAttentionTensors {
  /** `[B,T,H,K]`, K 1 to 1024 */
  q: Tensor;
  /** `[B,S,HKV,K]`; head h of q meets head `floor(h / (H/HKV))` */
  k: Tensor;
  /** `[B,S,HKV,V]`, V 1 to 1024 */
  v: Tensor;
  /** `[B,T,H]` or `[H]`, positive: the ridge, relative to the weights' sum. The larger, the nearer to softmax attention. */
  lambda: Tensor;
}

/** Inputs of {@link localLinearAttention}. */
export interface LocalLinearAttentionInputs extends LocalLinearAttentionTensors {
  /** As that of `attention`. */
  cache?: KvCache;
}

/** What a query sees, and how its system is solved. */
export interface LocalLinearSolveOptions extends Omit<AttentionMaskOptions, 'softcap'> {
  /**
   * A query's solution is done when its residual has fallen to this times what it began as; default 1e-7, as near as float32
   * comes, for which less is taken too. With 0 the steps are always `maxIterations`: the same work whatever the data.
   */
  tolerance?: number;
  /** Or after so many steps, up to 10000; default 2 K. In exact arithmetic K are enough. */
  maxIterations?: number;
  /** Return `residual`; default false. Costs about as much as a step. */
  outputResidual?: boolean;
}

/** Options of {@link localLinearAttention}. */
export interface LocalLinearAttentionOptions
  extends LocalLinearSolveOptions,
    CallOptions<'o' | 'solution' | 'residual'> {
  /** Return `solution`, for the backward; default false. */
  outputSolution?: boolean;
  /** With a cache: the slot of every sequence, each at most once; default 0, 1, ... */
  stateIndices?: Int32Array;
}

/** What {@link localLinearAttention} returns. */
export interface LocalLinearAttentionResult {
  /** `[B,T,H,V]` */
  o: ResultTensor;
  /** `[B,T,H,K]`, with `outputSolution`: x of every query */
  solution?: ResultTensor;
  /** `[B,T,H]`, with `outputResidual`: |b - A x| / |b|, computed from x; 0 where b is 0 */
  residual?: ResultTensor;
}

/** Inputs of {@link localLinearAttentionBackward}. */
export interface LocalLinearAttentionBackwardInputs extends LocalLinearAttentionTensors {
  /** Gradient of o, `[B,T,H,V]`. */
  dO: Tensor;
  /** `[B,T,H,K]`, what the forward returned; without it it is solved for again. */
  solution?: Tensor;
}

/** Options of {@link localLinearAttentionBackward}. */
export interface LocalLinearAttentionBackwardOptions
  extends LocalLinearSolveOptions,
    GradientOption,
    CallOptions<'dq' | 'dk' | 'dv' | 'dLambda' | 'residual'> {}

/** What {@link localLinearAttentionBackward} returns. */
export interface LocalLinearAttentionBackwardResult {
  /** `[B,T,H,K]` */
  dq: ResultTensor;
  /** `[B,S,HKV,K]` */
  dk: ResultTensor;
  /** `[B,S,HKV,V]` */
  dv: ResultTensor;
  /** of lambda's shape */
  dLambda: ResultTensor;
  /** `[B,T,H]`, with `outputResidual`: that of the gradient's own system */
  residual?: ResultTensor;
}

/**
 * Local linear attention (Zuo et al., "Local linear attention: an optimal interpolation of linear and softmax attention
 * for test-time regression", 2025, arXiv:2510.01450). Softmax attention takes the mean of the values under weights w; this fits a line to
 * the values around the query under the same weights, with a ridge on its slope, and takes its value at the query:
 *
 *     w_ij = e^(scale q_i . k_j)    omega = sum_j w_ij    z_ij = k_j - q_i    mu = sum_j w_ij z_ij
 *     rho = (sum_j w_ij z_ij z_ij^T + lambda omega I)^-1 mu
 *     o_i = sum_j w_ij (1 - z_ij . rho) v_j / (omega - mu . rho)
 *
 * over the keys j that query i sees, which the options say as for `attention`. lambda is relative to omega, as in the
 * authors' kernels, so that no shift of the scores changes o; it is learned, or one number to a head. A query that sees
 * nothing has o = 0.
 *
 * Computed in the equal form o = sum_j p_j (1 + (k_j - m) . x) v_j with p = w / omega, m = sum_j p_j k_j and
 * (sum_j p_j (k_j - m)(k_j - m)^T + lambda I) x = q - m, which has no divisor to cancel. x comes of conjugate gradients
 * with the matrix's diagonal as preconditioner; the matrix is never formed, nor is anything of size T x S: a step goes
 * over the keys in blocks, 4 K flops a pair of query and key. A query that has not converged after
 * `maxIterations` keeps what it has (with 0 of them o is softmax attention): nothing is thrown, and `outputResidual` says
 * how near it came. With lambda so small that the matrix is singular in float32 the residual stays above `tolerance`; with
 * lambda <= 0 there may be no answer.
 *
 * q, k and v are all float32, all bf16 or all f16, and o has their dtype; sums are float32. The bits of a sequence's
 * results depend neither on threads nor on the rest of the batch.
 *
 * @throws (rejects) as `attention` does
 */
export const localLinearAttention: AsyncLayer<
  Dtypes,
  LocalLinearAttentionInputs,
  LocalLinearAttentionOptions,
  LocalLinearAttentionResult
> = asynchronous('localLinearAttention');

/**
 * {@link localLinearAttention} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const localLinearAttentionSync: SyncLayer<
  Dtypes,
  LocalLinearAttentionInputs,
  LocalLinearAttentionOptions,
  LocalLinearAttentionResult
> = synchronous('localLinearAttention');

/**
 * Gradients of {@link localLinearAttention} from dO `[B,T,H,V]`: those of the solution itself, not of the steps that lead
 * to it (implicit function theorem), from a second system with the same matrix, to the same `tolerance`. Beside the
 * gradients it takes memory for two vectors of K for every query and head.
 * @throws (rejects) as {@link localLinearAttention}
 */
export const localLinearAttentionBackward: AsyncLayerBackward<
  Dtypes,
  LocalLinearAttentionBackwardInputs,
  LocalLinearAttentionBackwardOptions,
  LocalLinearAttentionBackwardResult
> = asynchronous('localLinearAttentionBackward');

/**
 * {@link localLinearAttentionBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const localLinearAttentionBackwardSync: SyncLayerBackward<
  Dtypes,
  LocalLinearAttentionBackwardInputs,
  LocalLinearAttentionBackwardOptions,
  LocalLinearAttentionBackwardResult
> = synchronous('localLinearAttentionBackward');
