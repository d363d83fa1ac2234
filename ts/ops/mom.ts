import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, IndexArray, IndexTensor, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

type RouteDtypes = { lead: 'logits'; same: never; either: never };
type GatherDtypes = { lead: 'x'; same: 'y'; either: never };
type GatherBackwardDtypes = { lead: 'dY'; same: 'dx'; either: never };
type CombineDtypes = { lead: 'o'; same: 'shared' | 'y' | 'dY' | 'dO'; either: never };

/** A result of int32 indices. */
export interface IndexResult {
  readonly data: Int32Array;
  readonly shape: number[];
  readonly dtype: 'i32';
}

/** Inputs of {@link momRoute}. */
export interface MomRouteInputs {
  /** `[B,T,M]`: a token's score for each of M memories, M 1 to 4096 */
  logits: Tensor;
}

/** How a token chooses its memories. */
export interface MomChoice {
  /** k: memories of a token, 1 to M; default 2, or 1 where there is but one. */
  topK?: number;
  /** Whether a token's k weights add up to 1; default true. Else they are their shares among all M. */
  renormalize?: boolean;
}

/** Options of {@link momRoute}. */
export interface MomRouteOptions extends MomChoice {
  /** Memory for the results, in place of new. */
  out?: {
    weights?: Tensor;
    memories?: IndexTensor;
    order?: IndexTensor;
    slots?: IndexTensor;
    cuSeqlens?: IndexTensor;
  };
  /** Starts of packed sequences, `[N+1]`: B = 1. Else every row of the batch is one, N = B. */
  cuSeqlens?: IndexArray;
}

/** What {@link momRoute} returns. An entry is a token in one of its k memories; there are P = B T k of them. */
export interface MomRouteResult {
  /** `[B,T,k]` */
  weights: ResultTensor;
  /** `[B,T,k]`: the memories of a token, by descending logit */
  memories: IndexResult;
  /** `[P]`: which entry (token times k, plus its place among the token's) stands at each row of a packed tensor */
  order: IndexResult;
  /** `[B,T,k]`: the row of each entry in packed tensors, the inverse of order */
  slots: IndexResult;
  /** `[M N + 1]`: where memory m's tokens of sequence n begin in packed tensors, at m N + n */
  cuSeqlens: IndexResult;
}

/** Inputs of {@link momRouteBackward}. */
export interface MomRouteBackwardInputs extends MomRouteInputs {
  /** Gradient of weights, `[B,T,k]`. */
  dWeights: Tensor;
}

/** Options of {@link momRouteBackward}. */
export interface MomRouteBackwardOptions extends MomChoice, CallOptions<'dLogits'> {}

/** What {@link momRouteBackward} returns. */
export interface MomRouteBackwardResult {
  /** `[B,T,M]`, float32 */
  dLogits: ResultTensor;
}

/** Inputs of {@link momGather}. */
export interface MomGatherInputs {
  /** `[B,T,...]` */
  x: Tensor;
  /** `[P]`, of {@link momRoute} */
  order: IndexTensor;
}

/** What {@link momGather} returns. */
export interface MomGatherResult {
  /** `[1,P,...]` */
  y: ResultTensor;
}

/** Inputs of {@link momGatherBackward}. */
export interface MomGatherBackwardInputs {
  /** Gradient of y, `[1,P,...]`. */
  dY: Tensor;
  /** `[B,T,k]`, of {@link momRoute} */
  slots: IndexTensor;
}

/** Options of {@link momGatherBackward}. */
export interface MomGatherBackwardOptions extends GradientOption, CallOptions<'dx'> {}

/** What {@link momGatherBackward} returns. */
export interface MomGatherBackwardResult {
  /** `[B,T,...]` */
  dx: ResultTensor;
}

/** Inputs of {@link momCombine}. */
export interface MomCombineInputs {
  /** `[1,P,...]`: what the memories have answered */
  o: Tensor;
  /** `[B,T,k]`, of {@link momRoute} */
  weights: Tensor;
  /** `[B,T,k]`, of {@link momRoute} */
  slots: IndexTensor;
  /** `[B,T,...]`: the answer of a memory that sees all tokens, added as it is */
  shared?: Tensor;
}

/** What {@link momCombine} returns. */
export interface MomCombineResult {
  /** `[B,T,...]` */
  y: ResultTensor;
}

/** Inputs of {@link momCombineBackward}. */
export interface MomCombineBackwardInputs {
  /** As in the forward. */
  o: Tensor;
  /** As in the forward. */
  weights: Tensor;
  /** As in the forward. */
  slots: IndexTensor;
  /** Gradient of y, `[B,T,...]`; it is that of `shared` too. */
  dY: Tensor;
}

/** Options of {@link momCombineBackward}. */
export interface MomCombineBackwardOptions extends GradientOption, CallOptions<'dO' | 'dWeights'> {}

/** What {@link momCombineBackward} returns. */
export interface MomCombineBackwardResult {
  /** `[1,P,...]` */
  dO: ResultTensor;
  /** `[B,T,k]` */
  dWeights: ResultTensor;
}

/**
 * The router of a mixture of memories (Du et al., "MoM: Linear sequence modeling with mixture-of-memories", 2025,
 * arXiv:2502.13685): each token goes to the `topK` memories with its largest logits, of equal ones to those that come
 * first, with weights
 *
 *     w_j = e^(logit_j) / sum e^(logit_i)      over its k memories, or over all (`renormalize: false`)
 *
 * and the result says how the tokens are packed: by memory, then by sequence, then by time. So each pair of a memory and a
 * sequence is a packed sequence of `cuSeqlens`, which any recurrence takes, and each memory is one block of rows, for
 * projections of its own: rows `cuSeqlens[m N]` to `cuSeqlens[(m + 1) N]`. {@link momGather} brings the tensors of a
 * call into that order, {@link momCombine} its output back. A memory that all tokens share is a call without routing.
 *
 * For a decode, a pool of M states per sequence: the state of pair m N + n is row m N + n of a pool of batch M N; in a
 * pool for S sequences, that of memory m and slot s is row `m S + s`, to be named in `stateIndices`.
 *
 * float32, bf16 or f16 logits; weights are float32. A logit that is NaN counts as the largest.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or
 * value or bad starts; `signal.reason` after an abort
 */
export const momRoute: AsyncLayer<RouteDtypes, MomRouteInputs, MomRouteOptions, MomRouteResult> =
  asynchronous('momRoute');

/**
 * {@link momRoute} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const momRouteSync: SyncLayer<RouteDtypes, MomRouteInputs, MomRouteOptions, MomRouteResult> =
  synchronous('momRoute');

/**
 * Gradient of {@link momRoute}'s weights with respect to the logits; the choice itself has none.
 * @throws (rejects) as {@link momRoute}
 */
export const momRouteBackward: AsyncLayer<
  RouteDtypes,
  MomRouteBackwardInputs,
  MomRouteBackwardOptions,
  MomRouteBackwardResult
> = asynchronous('momRouteBackward');

/**
 * {@link momRouteBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const momRouteBackwardSync: SyncLayer<
  RouteDtypes,
  MomRouteBackwardInputs,
  MomRouteBackwardOptions,
  MomRouteBackwardResult
> = synchronous('momRouteBackward');

/**
 * Rows of tokens in the order of the memories: `y[0,p] = x[token of order[p]]`, each token k times. For q, k, v, g and
 * beta of a recurrence, or for what they are projected from. y has x's dtype.
 *
 * @throws (rejects) as {@link momRoute}; RangeError for an index out of range
 */
export const momGather: AsyncLayer<
  GatherDtypes,
  MomGatherInputs,
  CallOptions<'y'>,
  MomGatherResult
> = asynchronous('momGather');

/**
 * {@link momGather} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const momGatherSync: SyncLayer<
  GatherDtypes,
  MomGatherInputs,
  CallOptions<'y'>,
  MomGatherResult
> = synchronous('momGather');

/**
 * Gradient of {@link momGather}: the sum over a token's k entries, in the order of its memories.
 * @throws (rejects) as {@link momGather}
 */
export const momGatherBackward: AsyncLayerBackward<
  GatherBackwardDtypes,
  MomGatherBackwardInputs,
  MomGatherBackwardOptions,
  MomGatherBackwardResult
> = asynchronous('momGatherBackward');

/**
 * {@link momGatherBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const momGatherBackwardSync: SyncLayerBackward<
  GatherBackwardDtypes,
  MomGatherBackwardInputs,
  MomGatherBackwardOptions,
  MomGatherBackwardResult
> = synchronous('momGatherBackward');

/**
 * What the memories have answered, back in the order of the tokens: `y[t] = shared[t] + sum_j weights[t,j] o[slots[t,j]]`.
 * As an output is linear in the state, this is what the mixed state `sum_j w_j S_j` of the paper answers. y has o's dtype;
 * sums are float32, in the order of a token's memories.
 *
 * @throws (rejects) as {@link momGather}
 */
export const momCombine: AsyncLayer<
  CombineDtypes,
  MomCombineInputs,
  CallOptions<'y'>,
  MomCombineResult
> = asynchronous('momCombine');

/**
 * {@link momCombine} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const momCombineSync: SyncLayer<
  CombineDtypes,
  MomCombineInputs,
  CallOptions<'y'>,
  MomCombineResult
> = synchronous('momCombine');

/**
 * Gradients of {@link momCombine}: `dO[p] = w dY[token]` and `dWeights[t,j] = dY[t] . o[slots[t,j]]`.
 * @throws (rejects) as {@link momGather}
 */
export const momCombineBackward: AsyncLayerBackward<
  CombineDtypes,
  MomCombineBackwardInputs,
  MomCombineBackwardOptions,
  MomCombineBackwardResult
> = asynchronous('momCombineBackward');

/**
 * {@link momCombineBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const momCombineBackwardSync: SyncLayerBackward<
  CombineDtypes,
  MomCombineBackwardInputs,
  MomCombineBackwardOptions,
  MomCombineBackwardResult
> = synchronous('momCombineBackward');
