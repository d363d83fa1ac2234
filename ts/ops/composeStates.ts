import { asynchronous, synchronous } from '../marshal';
import type { AsyncOperation, CallOptions, ResultTensor, SyncOperation, Tensor } from '../types';

/** Inputs of {@link composeStates}. R segments in their order; N sequences side by side, HV heads. All float32. */
export interface ComposeStatesInputs {
  /**
   * M of every segment, `[R,N,HV]`, `[R,N,HV,K]` or `[R,N,HV,K,K]`: the `transition` of {@link segmentSummary}, one
   * behind the other
   */
  transitions: Tensor;
  /** N of every segment, `[R,N,HV,K,V]`: the `state` of segmentSummary, one behind the other. K and V 1 to 512. */
  states: Tensor;
  /** `[N,HV,K,V]`: what enters the first segment; absent means zeros, and the first segment's M is not read */
  initialState?: Tensor;
}

/** Options of {@link composeStates}. */
export type ComposeStatesOptions = CallOptions<'initialStates' | 'finalState'>;

/** What {@link composeStates} returns. */
export interface ComposeStatesResult {
  /** `[R,N,HV,K,V]`: the state that enters each segment */
  initialStates: ResultTensor;
  /** `[N,HV,K,V]`: the state after the last one */
  finalState: ResultTensor;
}

/**
 * The states between the segments of a sequence, out of their summaries:
 *
 *     S_0 = initialState;   S_r = M_r S_(r-1) + N_r;   initialStates[r] = S_(r-1), finalState = S_R
 *
 * One segment after the other in float32, in an order fixed by the segments alone: whoever computes it from the same
 * summaries gets the same bits, whether every summary was made here or gathered from other processes. One call for the
 * segments that one process made with `cuSeqlens`: summaries `[R,HV,...]` are `[R,1,HV,...]`. R K V operations for scalar
 * and diagonal transitions, 2 R K K V for matrices; T does not occur.
 *
 * The running sums of `normalize` compose likewise: `z` as `[R,N,H,K,1]` with transitions of ones `[R,N,H]`.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape;
 * `signal.reason` after an abort
 * @see Sun et al., LASP-2, 2025 (arXiv:2502.07563)
 */
export const composeStates: AsyncOperation<
  ComposeStatesInputs,
  ComposeStatesOptions,
  ComposeStatesResult
> = asynchronous('composeStates');

/**
 * {@link composeStates} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const composeStatesSync: SyncOperation<
  ComposeStatesInputs,
  ComposeStatesOptions,
  ComposeStatesResult
> = synchronous('composeStates');

/** Inputs of {@link composeStatesBackward}. All float32. */
export interface ComposeStatesBackwardInputs {
  /** As in the forward. Without dFinalState the last segment's is not read. */
  transitions: Tensor;
  /** `[R,N,HV,K,V]`: gradient of initialStates, the `dInitialState` of {@link segmentGradient}, one behind the other */
  dInitialStates: Tensor;
  /** `[N,HV,K,V]`, as the forward had it; its presence asks for dInitialState */
  initialState?: Tensor;
  /** `[R,N,HV,K,V]`, what the forward returned; its presence asks for dTransitions */
  initialStates?: Tensor;
  /** Gradient of finalState, `[N,HV,K,V]`; absent means zero */
  dFinalState?: Tensor;
}

/** Options of {@link composeStatesBackward}. */
export type ComposeStatesBackwardOptions = CallOptions<
  'dStates' | 'dTransitions' | 'dInitialState'
>;

/** What {@link composeStatesBackward} returns. */
export interface ComposeStatesBackwardResult {
  /** `[R,N,HV,K,V]`: of states, and so of each segment's final state */
  dStates: ResultTensor;
  /** As transitions, when initialStates was given */
  dTransitions?: ResultTensor;
  /** `[N,HV,K,V]`, when initialState was given */
  dInitialState?: ResultTensor;
}

/**
 * Gradients of {@link composeStates}, the last segment first:
 *
 *     dStates[R] = dFinalState;   dStates[r-1] = M_r^T dStates[r] + dInitialStates[r];   dTransitions[r] = dStates[r] S_(r-1)^T
 *
 * dStates[r] is what the {@link recurrenceBackward} of segment r takes as `dFinalState`.
 * @throws (rejects) as {@link composeStates}
 */
export const composeStatesBackward: AsyncOperation<
  ComposeStatesBackwardInputs,
  ComposeStatesBackwardOptions,
  ComposeStatesBackwardResult
> = asynchronous('composeStatesBackward');

/**
 * {@link composeStatesBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const composeStatesBackwardSync: SyncOperation<
  ComposeStatesBackwardInputs,
  ComposeStatesBackwardOptions,
  ComposeStatesBackwardResult
> = synchronous('composeStatesBackward');
