import { asynchronous, synchronous } from '../marshal';
import type { RecurrentState } from '../state';
import type { CallOptions, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';
import type { ScanOptions, SequenceOption } from './scan';

type Dtypes = { lead: 'x'; same: 'y' | 'dY' | 'dx'; either: never };

/** What {@link s4d} and its backward take. B batch, T tokens, D channels, N complex modes each; parameters are float32. */
export interface S4dParameters {
  /** `[B,T,D]` */
  x: Tensor;
  /** `[D]`: logarithm of the step */
  logDt: Tensor;
  /** `[D,N]`: the real part of A is `-exp(logAReal)` */
  logAReal: Tensor;
  /** `[D,N]`: the imaginary part of A */
  AImag: Tensor;
  /** `[D,N,2]`: real and imaginary parts */
  C: Tensor;
  /** `[D]`: factor of the skip connection */
  D?: Tensor;
}

/** Inputs of {@link s4d}. */
export type S4dInputs = S4dParameters &
  (
    | {
        /** `[B,D,N,2]`, or one for every sequence that `cuSeqlens` packs; float32; not together with state */
        initialState?: Tensor;
        state?: undefined;
      }
    | {
        initialState?: undefined;
        /** Read and advanced in place: {@link createState} with valueHeads = D, keyDim = N, valueDim = 2. */
        state?: RecurrentState;
      }
  );

/** Options of {@link s4d} and of its backward. */
export interface S4dCommonOptions extends SequenceOption {
  /** Zero-order hold (default), or the bilinear transform. */
  discretisation?: 'zoh' | 'bilinear';
  /**
   * `'recurrent'` (default), or `'convolution'`: by Fourier transforms, from zeros and without a final state. Its cost hardly
   * grows with N in a batch: with eight sequences it pays in the backward from some 64 modes on, in the forward from 128.
   * There a value that is not finite reaches all tokens of its channel and sequence.
   */
  mode?: 'recurrent' | 'convolution';
}

/** Options of {@link s4d}. */
export interface S4dOptions extends S4dCommonOptions, ScanOptions<'y' | 'finalState'> {}

/** What {@link s4d} returns. */
export interface S4dResult {
  /** `[B,T,D]`, in the dtype of x */
  y: ResultTensor;
  /** `[B,D,N,2]`, or one for every packed sequence; float32, with `outputFinalState` */
  finalState?: ResultTensor;
}

/** Inputs of {@link s4dBackward}. */
export interface S4dBackwardInputs extends S4dParameters {
  /** As the forward had it. */
  initialState?: Tensor;
  /** Gradient of y, `[B,T,D]`, in the dtype of x. */
  dY: Tensor;
  /** Gradient of finalState, float32; absent means zero. */
  dFinalState?: Tensor;
}

/** Options of {@link s4dBackward}. */
export interface S4dBackwardOptions
  extends S4dCommonOptions,
    GradientOption,
    CallOptions<'dx' | 'dLogDt' | 'dLogAReal' | 'dAImag' | 'dC' | 'dD' | 'dInitialState'> {}

/** What {@link s4dBackward} returns: one gradient per input, of its shape. */
export interface S4dBackwardResult {
  dx: ResultTensor;
  dLogDt: ResultTensor;
  dLogAReal: ResultTensor;
  dAImag: ResultTensor;
  /** By the real and by the imaginary part. */
  dC: ResultTensor;
  /** When D was given. */
  dD?: ResultTensor;
  /** When initialState was given. */
  dInitialState?: ResultTensor;
}

/**
 * S4D, a diagonal state space of complex modes per channel. With A = -exp(logAReal) + i AImag, dt = exp(logDt) and B = 1,
 *
 *     s_t = Abar s_(t-1) + Bbar x_t;   y_t = 2 Re(sum over modes of C s_t) + D x_t
 *     zero-order hold:  Abar = exp(dt A),                    Bbar = (Abar - 1) / A
 *     bilinear:         Abar = (1 + dt A/2) / (1 - dt A/2),  Bbar = dt / (1 - dt A/2)
 *
 * Each mode stands for itself and its conjugate. Shapes: x `[B,T,D]`, logDt `[D]`, logAReal and AImag `[D,N]`, C `[D,N,2]`,
 * D `[D]` -> y `[B,T,D]`, float32, bf16 or f16 as x is. Computed in float64, in either mode; states are float32.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument, unknown key or a state with `mode:
 * 'convolution'`; RangeError for a wrong shape or value, bad offsets or indices; Error for a disposed, busy or poisoned
 * state; `signal.reason` after an abort
 * @see Gu et al., On the Parameterization and Initialization of Diagonal State Space Models, 2022 (arXiv:2206.11893)
 */
export const s4d: AsyncLayer<Dtypes, S4dInputs, S4dOptions, S4dResult> = asynchronous('s4d');

/**
 * {@link s4d} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const s4dSync: SyncLayer<Dtypes, S4dInputs, S4dOptions, S4dResult> = synchronous('s4d');

/**
 * Gradients of {@link s4d} from dY `[B,T,D]` and dFinalState, through the discretisation.
 * @throws (rejects) as {@link s4d}
 */
export const s4dBackward: AsyncLayerBackward<
  Dtypes,
  S4dBackwardInputs,
  S4dBackwardOptions,
  S4dBackwardResult
> = asynchronous('s4dBackward');

/**
 * {@link s4dBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const s4dBackwardSync: SyncLayerBackward<
  Dtypes,
  S4dBackwardInputs,
  S4dBackwardOptions,
  S4dBackwardResult
> = synchronous('s4dBackward');
