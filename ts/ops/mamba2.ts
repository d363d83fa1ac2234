import { asynchronous, synchronous } from '../marshal';
import type { SavedForward } from '../saved';
import type { RecurrentState } from '../state';
import type { CallOptions, ResultTensor, Tensor } from '../types';
import type {
  AsyncBackward,
  AsyncForward,
  GradientOption,
  RunOptions,
  StateOptions,
  SyncBackward,
  SyncForward,
} from './grid';

/**
 * What {@link mamba2} and its backward take. B batch, T tokens, HV heads, P head width, G groups (HV is a multiple of G),
 * N state width.
 */
export interface Mamba2Parameters {
  /** `[B,T,HV,P]` */
  x: Tensor;
  /** `[B,T,HV]`, float32 or in the dtype of x: step sizes, raw where `dtSoftplus` is set */
  dt: Tensor;
  /** `[HV]`, float32, < 0 */
  A: Tensor;
  /** `[B,T,G,N]`, in the dtype of x */
  B: Tensor;
  /** `[B,T,G,N]`, in the dtype of x */
  C: Tensor;
  /** `[HV]`, float32: factor of the skip connection */
  D?: Tensor;
  /** `[HV]`, float32, added to dt first */
  dtBias?: Tensor;
}

/** Inputs of {@link mamba2}. */
export type Mamba2Inputs = Mamba2Parameters &
  (
    | {
        /** `[B,HV,N,P]`, or one for every sequence that `cuSeqlens` packs; float32; not together with state */
        initialState?: Tensor;
        state?: undefined;
      }
    | {
        initialState?: undefined;
        /** Read and advanced in place; see {@link createState}, with keyDim = N and valueDim = P. */
        state?: RecurrentState;
      }
  );

/** Options of {@link mamba2} and of its backward. */
export interface Mamba2CommonOptions extends RunOptions {
  /** Apply softplus to dt (after dtBias); default false. */
  dtSoftplus?: boolean;
  /** Clamp dt (after softplus) to [min, max]; default [0, Infinity]. */
  dtLimit?: readonly [number, number];
}

/** Options of {@link mamba2}. */
export interface Mamba2Options
  extends Mamba2CommonOptions,
    StateOptions,
    CallOptions<'y' | 'finalState'> {}

/** What {@link mamba2} returns. */
export interface Mamba2Result {
  /** `[B,T,HV,P]`, in the dtype of x */
  y: ResultTensor;
  /** `[B,HV,N,P]`, or one for every packed sequence; float32, with `outputFinalState` */
  finalState?: ResultTensor;
  /** With `saveForBackward`. */
  saved?: SavedForward;
}

/** Inputs of {@link mamba2Backward}. */
export interface Mamba2BackwardInputs extends Mamba2Parameters {
  /** `[B,HV,N,P]`, float32, as the forward had it. */
  initialState?: Tensor;
  /** Gradient of y, `[B,T,HV,P]`, in the dtype of x. */
  dY: Tensor;
  /** Gradient of finalState, of its shape, float32; absent means zero. */
  dFinalState?: Tensor;
  /** What the forward of the same problem returned for `saveForBackward`; without it the backward recomputes. */
  saved?: SavedForward;
}

/** Options of {@link mamba2Backward}. */
export interface Mamba2BackwardOptions
  extends Mamba2CommonOptions,
    GradientOption,
    CallOptions<'dx' | 'ddt' | 'dA' | 'dB' | 'dC' | 'dD' | 'dDtBias' | 'dInitialState'> {}

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
 * Shapes: x `[B,T,HV,P]`, dt `[B,T,HV]`, A `[HV]`, B and C `[B,T,G,N]`, D and dtBias `[HV]` -> y `[B,T,HV,P]`. x, B, C and
 * y have one dtype, float32, bf16 or f16; dt has that one or float32; A, D and dtBias are float32.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Dao and Gu, Transformers are SSMs, 2024 (arXiv:2405.21060)
 *
 * @example
 * const { y } = await mamba2({ x, dt, A, B, C, D, dtBias, state }, { dtSoftplus: true });
 */
export const mamba2: AsyncForward<Mamba2Inputs, Mamba2Options, Mamba2Result> =
  asynchronous('mamba2');

/**
 * {@link mamba2} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const mamba2Sync: SyncForward<Mamba2Inputs, Mamba2Options, Mamba2Result> =
  synchronous('mamba2');

/**
 * Gradients of {@link mamba2} from dY `[B,T,HV,P]` and dFinalState `[B,HV,N,P]`, through softplus and clamp: dx, ddt,
 * dA, dB, dC, and dD, dDtBias, dInitialState where those inputs were given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const mamba2Backward: AsyncBackward<
  Mamba2BackwardInputs,
  Mamba2BackwardOptions,
  Mamba2BackwardResult
> = asynchronous('mamba2Backward');

/**
 * {@link mamba2Backward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const mamba2BackwardSync: SyncBackward<
  Mamba2BackwardInputs,
  Mamba2BackwardOptions,
  Mamba2BackwardResult
> = synchronous('mamba2Backward');
