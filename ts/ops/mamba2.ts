import { asynchronous, synchronous } from '../marshal';
import type { SavedForward } from '../saved';
import type { RecurrentState } from '../state';
import type { AsyncOperation, CallOptions, ResultTensor, SyncOperation, Tensor } from '../types';
import type { GridOptions } from './recurrence';

/** Inputs of {@link mamba2}. B batch, T tokens, HV heads, P head width, G groups (HV is a multiple of G), N state width. */
export interface Mamba2Inputs {
  /** `[B,T,HV,P]` */
  x: Tensor;
  /** `[B,T,HV]`: step sizes, raw where `dtSoftplus` is set */
  dt: Tensor;
  /** `[HV]`, < 0 */
  A: Tensor;
  /** `[B,T,G,N]` */
  B: Tensor;
  /** `[B,T,G,N]` */
  C: Tensor;
  /** `[HV]`: factor of the skip connection */
  D?: Tensor;
  /** `[HV]`, added to dt first */
  dtBias?: Tensor;
  /** `[B,HV,N,P]`; not together with state */
  initialState?: Tensor;
  /** Read and advanced in place; see {@link createState}, with keyDim = N and valueDim = P. */
  state?: RecurrentState;
}

/** Options of {@link mamba2} and of its backward. */
export interface Mamba2CommonOptions extends Omit<GridOptions, 'scale'> {
  /** Apply softplus to dt (after dtBias); default false. */
  dtSoftplus?: boolean;
  /** Clamp dt (after softplus) to [min, max]; default [0, Infinity]. */
  dtLimit?: readonly [number, number];
}

/** Options of {@link mamba2}. */
export interface Mamba2Options extends Mamba2CommonOptions, CallOptions<'y' | 'finalState'> {
  /** Return `finalState`; default false. Not together with `state`. */
  outputFinalState?: boolean;
  /** Return `saved` for the backward; default false. Not together with `state`. */
  saveForBackward?: boolean;
}

/** What {@link mamba2} returns. */
export interface Mamba2Result {
  /** `[B,T,HV,P]` */
  y: ResultTensor;
  /** `[B,HV,N,P]`, with `outputFinalState` */
  finalState?: ResultTensor;
  /** With `saveForBackward`. */
  saved?: SavedForward;
}

/** Inputs of {@link mamba2Backward}. */
export interface Mamba2BackwardInputs extends Omit<Mamba2Inputs, 'state'> {
  /** Gradient of y, `[B,T,HV,P]`. */
  dY: Tensor;
  /** Gradient of finalState, `[B,HV,N,P]`; absent means zero. */
  dFinalState?: Tensor;
  /** What the forward of the same problem returned for `saveForBackward`; without it the backward recomputes. */
  saved?: SavedForward;
}

/** Options of {@link mamba2Backward}. */
export interface Mamba2BackwardOptions
  extends Mamba2CommonOptions,
    CallOptions<'dx' | 'ddt' | 'dA' | 'dB' | 'dC' | 'dD' | 'dDtBias' | 'dInitialState'> {
  /** dtype of the gradients; default `'f32'`. With float32 inputs the two are the same. */
  gradDtype?: 'f32' | 'input';
}

/** What {@link mamba2Backward} returns: one gradient per input, of its shape. */
export interface Mamba2BackwardResult {
  dx: ResultTensor;
  /** With respect to dt as given. */
  ddt: ResultTensor;
  dA: ResultTensor;
  dB: ResultTensor;
  dC: ResultTensor;
  /** When D was given. */
  dD?: ResultTensor;
  /** When dtBias was given. */
  dDtBias?: ResultTensor;
  /** When initialState was given. */
  dInitialState?: ResultTensor;
}

/**
 * Mamba-2 (state-space duality), the token-gated additive cell of the grid under its own argument names. With
 * d = clamp(softplus(dt + dtBias)), softplus and clamp as asked for:
 *
 *     S <- exp(d_t A) S + B_t (d_t x_t)^T;   y_t = S^T C_t + D x_t
 *
 * All float32: x `[B,T,HV,P]`, dt `[B,T,HV]`, A `[HV]`, B and C `[B,T,G,N]`, D and dtBias `[HV]` -> y `[B,T,HV,P]`.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Dao and Gu, Transformers are SSMs, 2024 (arXiv:2405.21060)
 */
export const mamba2: AsyncOperation<Mamba2Inputs, Mamba2Options, Mamba2Result> =
  asynchronous('mamba2');

/**
 * {@link mamba2} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const mamba2Sync: SyncOperation<Mamba2Inputs, Mamba2Options, Mamba2Result> =
  synchronous('mamba2');

/**
 * Gradients of {@link mamba2} from dY `[B,T,HV,P]` and dFinalState `[B,HV,N,P]`, through softplus and clamp: dx, ddt,
 * dA, dB, dC, and dD, dDtBias, dInitialState where those inputs were given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const mamba2Backward: AsyncOperation<
  Mamba2BackwardInputs,
  Mamba2BackwardOptions,
  Mamba2BackwardResult
> = asynchronous('mamba2Backward');

/**
 * {@link mamba2Backward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const mamba2BackwardSync: SyncOperation<
  Mamba2BackwardInputs,
  Mamba2BackwardOptions,
  Mamba2BackwardResult
> = synchronous('mamba2Backward');
