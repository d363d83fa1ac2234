import { asynchronous, synchronous } from '../marshal';
import type {
  AsyncOptions,
  CallOptions,
  FloatTensor,
  IndexArray,
  ResultTensor,
  Tensor,
} from '../types';
import type {
  GateOption,
  GradientOption,
  HouseholderOption,
  NormalizeOption,
  QueryKeyNormOption,
  StrengthOption,
} from './grid';
import type {
  AsyncLayer,
  AsyncLayerBackward,
  LayerInputs,
  SyncLayer,
  SyncLayerBackward,
} from './layer';

type SummaryDtypes = {
  lead: 'k';
  same: 'q' | 'v' | 'dk' | 'dv';
  either: 'g' | 'beta' | 'dg' | 'dbeta';
};

type GradientDtypes = { lead: 'q'; same: 'k' | 'v' | 'dO'; either: 'g' | 'beta' };

/** What shapes a cell of the grid, where its segments are concerned. */
export interface SegmentOptions
  extends HouseholderOption,
    QueryKeyNormOption,
    GateOption,
    StrengthOption {
  /** Default `'delta'` when beta is given, else `'additive'`. */
  update?: 'additive' | 'delta';
  /**
   * `[N+1]` offsets in tokens from 0 to T, non-decreasing, and B is 1: N segments (of one sequence or of several), each
   * with its own summary. Without it every row of the batch is a segment.
   */
  cuSeqlens?: IndexArray;
}

/** Inputs of {@link segmentSummary}: those of {@link recurrence} but for the state. */
export interface SegmentSummaryInputs {
  /** `[B,T*n,H,K]`, K 1 to 512 */
  k: Tensor;
  /** `[B,T*n,HV,V]`, in the dtype of k */
  v: Tensor;
  /** `[B,T,H,K]`. Not read: so that a forward's inputs may be passed as they are. */
  q?: Tensor;
  /** Natural log of the decay, as in {@link recurrence}: `[HV]`, `[B,T,HV]` or `[B,T,HV,K]` */
  g?: Tensor;
  /** `[B,T*n,HV]`, for the delta update */
  beta?: Tensor;
}

/** Options of {@link segmentSummary}. */
export interface SegmentSummaryOptions
  extends SegmentOptions,
    NormalizeOption,
    CallOptions<'transition' | 'state' | 'z'> {
  /**
   * Return `transition`; default true. Without an initial state nothing reads that of the first segment, nor, without a
   * gradient of the final state, that of the last.
   */
  outputTransition?: boolean;
}

/** What {@link segmentSummary} returns. */
export interface SegmentSummaryResult {
  /**
   * M, float32: `[N,HV]` of an additive cell without a gate or with one per head or token, `[N,HV,K]` with one per
   * channel, `[N,HV,K,K]` of a delta cell
   */
  transition?: ResultTensor;
  /** N, `[N,HV,K,V]`, float32: the state after the segment where zeros entered it */
  state: ResultTensor;
  /** With `normalize`: the sum of the segment's keys, `[N,H,K]`, float32 */
  z?: ResultTensor;
}

interface TransitionOption<M extends boolean> {
  outputTransition?: M;
}

/** With the transition, unless the call says that it is not wanted. */
type Summary<M extends boolean> = SegmentSummaryResult &
  ([M] extends [true] ? { transition: ResultTensor } : unknown);

/**
 * What a segment of a sequence does to the state that enters it, for every cell of the grid:
 *
 *     S_out = M S_in + N
 *
 * With A_t the factor of the state in a token's step of {@link recurrence},
 *
 *     M = A_T ... A_1;   additive: A_t = D(g_t), so M = exp(sum of g), a number or one per row
 *                        delta:    A_t = (I - beta_tn k_tn k_tn^T) ... (I - beta_t1 k_t1 k_t1^T) D(g_t), so M is K x K
 *     N = the final state of the segment's own recurrence from zeros
 *
 * so that segments can be computed apart, in parallel or on several machines: summaries of all, {@link composeStates} for
 * the states between them, then each segment's recurrence from its own. No outputs are computed: N takes half the
 * arithmetic of an additive recurrence and two thirds of a delta one, the M of a delta cell that of N again at V = K.
 * The scan is the forward's, float32 sums whatever the dtype; a reset (a log gate below -104) makes M an exact zero.
 *
 * A segment lies within one sequence: where another one begins inside, summarise what follows the beginning, with a
 * transition of zeros.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument, unknown key or contradiction; RangeError for a
 * wrong shape or value, or bad offsets; `signal.reason` after an abort
 * @see Sun et al., LASP-2, 2025 (arXiv:2502.07563), for additive cells
 *
 * @example
 * const { transition, state } = await segmentSummary({ k, v, g }, { cuSeqlens: Int32Array.of(0, 512, 1024) });
 */
export const segmentSummary: <X extends FloatTensor = Tensor, M extends boolean = true>(
  inputs: LayerInputs<SegmentSummaryInputs, SummaryDtypes, X>,
  options?: SegmentSummaryOptions & TransitionOption<M> & AsyncOptions,
) => Promise<Summary<M>> = asynchronous('segmentSummary');

/**
 * {@link segmentSummary} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const segmentSummarySync: <X extends FloatTensor = Tensor, M extends boolean = true>(
  inputs: LayerInputs<SegmentSummaryInputs, SummaryDtypes, X>,
  options?: SegmentSummaryOptions & TransitionOption<M>,
) => Summary<M> = synchronous('segmentSummary');

/** Inputs of {@link segmentSummaryBackward}. An absent gradient means zero. */
export interface SegmentSummaryBackwardInputs extends SegmentSummaryInputs {
  /** In the shape of transition, float32 */
  dTransition?: Tensor;
  /** `[N,HV,K,V]`, float32 */
  dState?: Tensor;
  /** `[N,H,K]`, float32, with `normalize` */
  dZ?: Tensor;
}

/** Options of {@link segmentSummaryBackward}. */
export interface SegmentSummaryBackwardOptions
  extends SegmentOptions,
    NormalizeOption,
    GradientOption,
    CallOptions<'dk' | 'dv' | 'dg' | 'dbeta' | 'dALog' | 'dDtBias'> {}

/** What {@link segmentSummaryBackward} returns. */
export interface SegmentSummaryBackwardResult {
  /** `[B,T*n,H,K]` */
  dk: ResultTensor;
  /** `[B,T*n,HV,V]` */
  dv: ResultTensor;
  /** As g, when g was given */
  dg?: ResultTensor;
  /** `[B,T*n,HV]`, when beta was given */
  dbeta?: ResultTensor;
  /** `[HV]`, with the option `gate` */
  dALog?: ResultTensor;
  /** As dtBias, when it was given */
  dDtBias?: ResultTensor;
}

/**
 * Gradients of {@link segmentSummary}, as a system that differentiates operation by operation needs them. A backward that is
 * written by hand does without, at a fraction of the cost: {@link segmentGradient} says how.
 * @throws (rejects) as {@link segmentSummary}
 */
export const segmentSummaryBackward: AsyncLayerBackward<
  SummaryDtypes,
  SegmentSummaryBackwardInputs,
  SegmentSummaryBackwardOptions,
  SegmentSummaryBackwardResult
> = asynchronous('segmentSummaryBackward');

/**
 * {@link segmentSummaryBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const segmentSummaryBackwardSync: SyncLayerBackward<
  SummaryDtypes,
  SegmentSummaryBackwardInputs,
  SegmentSummaryBackwardOptions,
  SegmentSummaryBackwardResult
> = synchronous('segmentSummaryBackward');

/** Inputs of {@link segmentGradient}. */
export interface SegmentGradientInputs {
  /** `[B,T,H,K]`, K 1 to 512 */
  q: Tensor;
  /** `[B,T*n,H,K]`, in the dtype of q */
  k: Tensor;
  /** Gradient of o, `[B,T,HV,V]`, in the dtype of q */
  dO: Tensor;
  /** `[B,T*n,HV,V]`. Not read: so that a backward's inputs may be passed as they are. */
  v?: Tensor;
  /** As in {@link recurrence} */
  g?: Tensor;
  /** `[B,T*n,HV]`, for the delta update */
  beta?: Tensor;
}

/** Options of {@link segmentGradient}. */
export interface SegmentGradientOptions extends SegmentOptions, CallOptions<'dInitialState'> {
  /** Factor on the output; default `K ** -0.5`. Finite. */
  scale?: number;
}

/** What {@link segmentGradient} returns. */
export interface SegmentGradientResult {
  /** `[N,HV,K,V]`, float32 */
  dInitialState: ResultTensor;
}

/**
 * What the outputs of a segment say about the state that enters it: the dInitialState of {@link recurrenceBackward}
 * without a gradient of the final state, and nothing else of it.
 *
 *     dInitialState = sum over t of scale * A_1^T ... A_t^T q_t dO_t^T        A_t as in segmentSummary
 *
 * With it the backward of a sequence in segments mirrors the forward: this gradient of every segment,
 * {@link composeStatesBackward} for the gradient of each segment's final state (`dStates`), then each segment's
 * recurrenceBackward, which takes that as `dFinalState` and gives exact gradients of every input. The recurrence is linear
 * in its state, so that neither values nor states are needed, and what is scanned is the gradient of the state alone, from
 * the last token to the first. With `normalize`, where it is not linear, take dInitialState and dInitialZ of a
 * recurrenceBackward without dFinalState and dFinalZ.
 *
 * @throws (rejects) as {@link segmentSummary}
 * @see Sun et al., LASP-2, 2025 (arXiv:2502.07563), for additive cells
 */
export const segmentGradient: AsyncLayer<
  GradientDtypes,
  SegmentGradientInputs,
  SegmentGradientOptions,
  SegmentGradientResult
> = asynchronous('segmentGradient');

/**
 * {@link segmentGradient} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const segmentGradientSync: SyncLayer<
  GradientDtypes,
  SegmentGradientInputs,
  SegmentGradientOptions,
  SegmentGradientResult
> = synchronous('segmentGradient');
