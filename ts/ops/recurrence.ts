import { asynchronous, synchronous } from '../marshal';
import type { SavedForward } from '../saved';
import type { RecurrentState } from '../state';
import type { AsyncOperation, CallOptions, ResultTensor, SyncOperation, Tensor } from '../types';

/** Queries, keys and values. B batch, T tokens, H query/key heads, HV value heads (a multiple of H), K, V 1 to 512. */
export interface QueryKeyValue {
  /** `[B,T,H,K]` */
  q: Tensor;
  /** `[B,T*n,H,K]`, token-major: rows `t*n .. t*n+n-1` belong to token t. n is 1 except for Householder products. */
  k: Tensor;
  /** `[B,T*n,HV,V]`. Value head h reads query/key head `floor(h / (HV/H))`. */
  v: Tensor;
}

/** One log decay per token and value head. */
export interface TokenGate {
  /** `[B,T,HV]`: natural log of the decay, usually <= 0. Below -104 it resets the state. */
  g: Tensor;
}

/** One log decay per token, value head and key channel. */
export interface ChannelGate {
  /** `[B,T,HV,K]`: natural log of the decay of each row of the state, usually <= 0. Below -104 it resets the row. */
  g: Tensor;
}

/** The strength of the delta rule's writes. */
export interface WriteStrength {
  /** `[B,T*n,HV]`, after any sigmoid: usually in [0,1], in [0,2] for negative eigenvalues. */
  beta: Tensor;
}

/** Where the recurrence starts: from zeros, from a tensor, or from a state that is advanced in place. Not from both. */
export type StartingState =
  | {
      /** `[B,HV,K,V]` */
      initialState?: Tensor;
      state?: undefined;
    }
  | {
      initialState?: undefined;
      /** Read and advanced in place; see {@link createState}. */
      state?: RecurrentState;
    };

/** What a backward takes beside q, k, v and those of g and beta that the forward had. */
export interface OutputGradients {
  /** `[B,HV,K,V]`, as the forward had it. */
  initialState?: Tensor;
  /** Gradient of o, `[B,T,HV,V]`. */
  dO: Tensor;
  /** Gradient of finalState, `[B,HV,K,V]`; absent means zero. */
  dFinalState?: Tensor;
  /** What the forward of the same problem returned for `saveForBackward`; without it the backward recomputes. */
  saved?: SavedForward;
}

/** Options of every cell of the grid, forward and backward. */
export interface GridOptions {
  /** Factor on the output; default `K ** -0.5`. Finite. */
  scale?: number;
  /** Default `'auto'`. Results agree across modes within the numerical contract. */
  mode?: 'auto' | 'recurrent' | 'chunk';
  /** A hint; results agree across values within the numerical contract. */
  chunkSize?: 16 | 32 | 64 | 128;
  /**
   * Precision of the arithmetic, default `'f32'`. `'bf16'` needs its dot product (`info().isa` is `'avx512bf16'`, else a
   * RangeError) and rounds the forward in chunks; modes `'recurrent'` and decode, `saveForBackward` and backwards are f32.
   */
  compute?: 'f32' | 'bf16';
  /** `'cpu'` is the only one of this version; another is an error. */
  device?: 'cpu' | 'cuda';
}

/** Options of a forward. */
export interface ForwardOptions extends GridOptions, CallOptions<'o' | 'finalState'> {
  /** Return `finalState`; default false. Not together with `state`. */
  outputFinalState?: boolean;
  /** Return `saved` for the backward; default false. Not together with `state`. */
  saveForBackward?: boolean;
}

/** Options of a backward. */
export interface BackwardOptions<
  Gradients extends string = 'dq' | 'dk' | 'dv' | 'dg' | 'dbeta' | 'dInitialState',
> extends GridOptions,
    CallOptions<Gradients> {
  /** dtype of the gradients; default `'f32'`. With float32 inputs the two are the same. */
  gradDtype?: 'f32' | 'input';
}

/** Option of the Householder products. */
export interface HouseholderOption {
  /** n: updates per token, 1 to 8; default 1. The decay applies once per token, before the first. */
  numHouseholder?: number;
}

/** What a forward returns. */
export interface ForwardResult {
  /** `[B,T,HV,V]` */
  o: ResultTensor;
  /** `[B,HV,K,V]`, with `outputFinalState` */
  finalState?: ResultTensor;
  /** With `saveForBackward`. */
  saved?: SavedForward;
}

/** Gradients of every cell. */
export interface BackwardResult {
  /** `[B,T,H,K]`, summed over the value heads of a group */
  dq: ResultTensor;
  /** `[B,T*n,H,K]`, summed over the value heads of a group */
  dk: ResultTensor;
  /** `[B,T*n,HV,V]` */
  dv: ResultTensor;
  /** `[B,HV,K,V]`, when initialState was given */
  dInitialState?: ResultTensor;
}

/** Gradient of a gate. */
export interface GateGradient {
  /** Shape of g. Zero where the gate reset the state. */
  dg: ResultTensor;
}

/** Gradient of the delta rule's strength. */
export interface StrengthGradient {
  /** `[B,T*n,HV]` */
  dbeta: ResultTensor;
}

/** Inputs of {@link recurrence}. */
export type RecurrenceInputs = QueryKeyValue & {
  /**
   * Natural log of the decay. Its rank selects the gate: absent, `[HV]` per head, `[B,T,HV]` per token, `[B,T,HV,K]`
   * per key channel.
   */
  g?: Tensor;
  /** `[B,T*n,HV]`, for the delta update. */
  beta?: Tensor;
} & StartingState;

/** Options of {@link recurrence}. */
export interface RecurrenceOptions extends ForwardOptions, HouseholderOption {
  /** Default `'delta'` when beta is given, else `'additive'`. */
  update?: 'additive' | 'delta';
}

/** Inputs of {@link recurrenceBackward}. */
export type RecurrenceBackwardInputs = QueryKeyValue & {
  /** As in the forward. */
  g?: Tensor;
  /** As in the forward. */
  beta?: Tensor;
} & OutputGradients;

/** Options of {@link recurrenceBackward}. */
export interface RecurrenceBackwardOptions extends BackwardOptions, HouseholderOption {
  /** As in the forward. */
  update?: 'additive' | 'delta';
}

/** What {@link recurrenceBackward} returns. */
export type RecurrenceBackwardResult = BackwardResult & Partial<GateGradient & StrengthGradient>;

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
 * Inputs are copied at the call and the promise's value is computed on the engine's threads; the event loop is never
 * blocked by a kernel.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument, unknown key or contradiction; RangeError for a
 * wrong shape or value, or when memory is short; Error for a disposed, busy or poisoned state; `signal.reason` after an
 * abort
 *
 * @example
 * const { o, finalState } = await recurrence({ q, k, v, g, beta }, { outputFinalState: true });
 */
export const recurrence: AsyncOperation<RecurrenceInputs, RecurrenceOptions, ForwardResult> =
  asynchronous('recurrence');

/**
 * {@link recurrence} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const recurrenceSync: SyncOperation<RecurrenceInputs, RecurrenceOptions, ForwardResult> =
  synchronous('recurrence');

/**
 * Gradients of {@link recurrence} with respect to every input, given the gradients of o and finalState. Takes the
 * forward's tensors, and its options but for `outputFinalState` and `saveForBackward`, which are unknown keys here, and
 * so is `state`: a call that advanced a state has no backward. Memory grows with the number of chunks, not of tokens.
 * Sums over value heads of a group, and over batch and tokens for a head gate, are added in an order fixed by shape: the
 * bits do not depend on threads.
 *
 * @throws (rejects) as {@link recurrence}; RangeError for a `saved` of another problem, Error for a disposed one
 */
export const recurrenceBackward: AsyncOperation<
  RecurrenceBackwardInputs,
  RecurrenceBackwardOptions,
  RecurrenceBackwardResult
> = asynchronous('recurrenceBackward');

/**
 * {@link recurrenceBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const recurrenceBackwardSync: SyncOperation<
  RecurrenceBackwardInputs,
  RecurrenceBackwardOptions,
  RecurrenceBackwardResult
> = synchronous('recurrenceBackward');
