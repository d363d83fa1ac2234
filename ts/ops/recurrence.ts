import { asynchronous, synchronous } from '../marshal';
import type { Tensor } from '../types';
import type {
  AsyncBackward,
  AsyncForward,
  BackwardOptions,
  BackwardResult,
  ForwardOptions,
  GateGradient,
  GateOption,
  HouseholderOption,
  NormalizedForwardResult,
  NormalizedOutputGradients,
  NormalizedStart,
  NormalizeOption,
  QueryKeyNormOption,
  QueryKeyValue,
  StrengthGradient,
  StrengthOption,
  SumGradient,
  SyncBackward,
  SyncForward,
} from './grid';

/** Inputs of {@link recurrence}. */
export type RecurrenceInputs = QueryKeyValue & {
  /**
   * Natural log of the decay. Its rank selects the gate: absent, `[HV]` per head, `[B,T,HV]` per token, `[B,T,HV,K]`
   * per key channel. With the option `gate` what the activation takes.
   */
  g?: Tensor;
  /** `[B,T*n,HV]`, for the delta update. With the option `betaActivation` what the activation takes. */
  beta?: Tensor;
} & NormalizedStart;

/** Options of {@link recurrence} and of its backward that shape the problem. */
export interface CellOptions
  extends HouseholderOption,
    QueryKeyNormOption,
    GateOption,
    StrengthOption,
    NormalizeOption {
  /** Default `'delta'` when beta is given, else `'additive'`. */
  update?: 'additive' | 'delta';
}

/** Options of {@link recurrence}. */
export interface RecurrenceOptions
  extends ForwardOptions<'o' | 'finalState' | 'finalZ'>,
    CellOptions {}

/** Inputs of {@link recurrenceBackward}. */
export type RecurrenceBackwardInputs = QueryKeyValue & {
  /** As in the forward. */
  g?: Tensor;
  /** As in the forward. */
  beta?: Tensor;
} & NormalizedOutputGradients;

/** Options of {@link recurrenceBackward}. */
export interface RecurrenceBackwardOptions
  extends BackwardOptions<'dg' | 'dbeta' | 'dALog' | 'dDtBias' | 'dInitialZ'>,
    CellOptions {}

/** What {@link recurrenceBackward} returns. */
export type RecurrenceBackwardResult = BackwardResult &
  Partial<GateGradient & StrengthGradient> &
  SumGradient;

/**
 * The recurrence grid: linear attention with any gate and either update rule. Per batch row and value head a state S
 * `[K,V]` (float32) is carried over the tokens:
 *
 *     S <- D(g_t) S                                              once per token
 *     additive:  S <- S + k_tj v_tj^T                            for j = 1..n
 *     delta:     S <- S + beta_tj k_tj (v_tj - S^T k_tj)^T
 *     o_t = scale * S^T q_t                                      reads the updated state
 *
 * D is the identity without g, else the exponential of g by head, by token, or by key channel. All twelve combinations
 * of gate (none, head, token, channel) and update (additive, delta, delta with n > 1) compute. One function serves
 * prefill and decode: with `state` it advances that state in place, for one token or for many.
 *
 * q, k and v are all float32, all bf16 or all f16, and o has their dtype; g and beta have it too or are float32; states
 * and the parameters of activations are float32. Sums are float32 in any case.
 *
 * The option `gate` needs a gate by token or channel, `betaActivation` the delta update, `normalize` the additive update
 * without gate; elsewhere they are errors.
 *
 * Inputs are copied at the call and the promise's value is computed on the engine's threads; the event loop is never
 * blocked by a kernel.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument, unknown key or contradiction; RangeError for a
 * wrong shape or value, bad offsets or indices, or when memory is short; Error for a disposed, busy or poisoned state; `signal.reason` after an
 * abort
 *
 * @example
 * const { o, finalState } = await recurrence({ q, k, v, g, beta }, { outputFinalState: true });
 */
export const recurrence: AsyncForward<
  RecurrenceInputs,
  RecurrenceOptions,
  NormalizedForwardResult
> = asynchronous('recurrence');

/**
 * {@link recurrence} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const recurrenceSync: SyncForward<
  RecurrenceInputs,
  RecurrenceOptions,
  NormalizedForwardResult
> = synchronous('recurrence');

/**
 * Gradients of {@link recurrence} with respect to every input, given the gradients of o and finalState. Takes the
 * forward's tensors, and its options but for `outputFinalState`, `saveForBackward` and `stateIndices`, which are unknown
 * keys here, and so is `state`: a call that advanced a state has no backward. Memory grows with the number of chunks, not of tokens.
 * Sums over value heads of a group, and over batch and tokens for a head gate, are added in an order fixed by shape: the
 * bits do not depend on threads.
 *
 * @throws (rejects) as {@link recurrence}; RangeError for a `saved` of another problem, Error for a disposed one
 */
export const recurrenceBackward: AsyncBackward<
  RecurrenceBackwardInputs,
  RecurrenceBackwardOptions,
  RecurrenceBackwardResult
> = asynchronous('recurrenceBackward');

/**
 * {@link recurrenceBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const recurrenceBackwardSync: SyncBackward<
  RecurrenceBackwardInputs,
  RecurrenceBackwardOptions,
  RecurrenceBackwardResult
> = synchronous('recurrenceBackward');
