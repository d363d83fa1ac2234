import { asynchronous, synchronous } from '../marshal';
import type { RecurrentState } from '../state';
import type { CallOptions, IndexArray, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** x, y and dY have one dtype; weight and bias have it too or are float32; states are float32. */
type Dtypes = {
  lead: 'x';
  same: 'y' | 'dY' | 'dx';
  either: 'weight' | 'bias' | 'dWeight' | 'dBias';
};

/** What a short convolution takes in both directions. D channels, W taps. */
interface Convolved {
  /** `[B,T,D]` */
  x: Tensor;
  /** `[D,W]`; `weight[:,W-1]` meets the current token */
  weight: Tensor;
  /** `[D]` */
  bias?: Tensor;
  /** `[N,D,W-1]`: the inputs before the first token, oldest first; absent means zeros. N = B, or the packed sequences */
  initialState?: Tensor;
}

/** Inputs of {@link shortConv}. D channels, W taps. */
export type ShortConvInputs = Convolved &
  (
    | { state?: undefined }
    | {
        initialState?: undefined;
        /**
         * `[N,D,1,W-1]`, in place of initialState, read and advanced in place:
         * `createState({ batch: N, valueHeads: D, keyDim: 1, valueDim: W - 1 })`. With `stateIndices` a pool.
         */
        state?: RecurrentState;
      }
  );

/** Options of {@link shortConv}. */
export interface ShortConvOptions extends CallOptions<'y' | 'finalState'> {
  /** Applied to the sum; default `'none'`. */
  activation?: 'none' | 'silu';
  /** Return `finalState`; default false. Not together with `state`. */
  outputFinalState?: boolean;
  /**
   * Packed sequences: `[N+1]` offsets in tokens from 0 to T, non-decreasing, and B is 1. Each sees its own tokens and its own
   * state only; an empty one keeps its state.
   */
  cuSeqlens?: IndexArray;
  /**
   * `[N]`, only together with `state`, a pool of at least N rows: which row each sequence owns. RangeError for an index
   * outside of the pool or one that comes twice.
   */
  stateIndices?: Int32Array;
}

/** What {@link shortConv} returns. */
export interface ShortConvResult {
  /** `[B,T,D]` */
  y: ResultTensor;
  /** `[N,D,W-1]`, with `outputFinalState`: the initialState of what follows */
  finalState?: ResultTensor;
}

/** Inputs of {@link shortConvBackward}. */
export interface ShortConvBackwardInputs extends Convolved {
  /** Gradient of y, `[B,T,D]`. */
  dY: Tensor;
  /** Gradient of finalState, `[N,D,W-1]`; absent means zero. */
  dFinalState?: Tensor;
}

/** Options of {@link shortConvBackward}. */
export interface ShortConvBackwardOptions
  extends GradientOption,
    CallOptions<'dx' | 'dWeight' | 'dBias' | 'dInitialState'> {
  /** As in the forward. */
  activation?: 'none' | 'silu';
  /** As in the forward. */
  cuSeqlens?: IndexArray;
}

/** What {@link shortConvBackward} returns. */
export interface ShortConvBackwardResult {
  /** `[B,T,D]` */
  dx: ResultTensor;
  /** `[D,W]` */
  dWeight: ResultTensor;
  /** `[D]`, when bias was given */
  dBias?: ResultTensor;
  /** `[N,D,W-1]`, when initialState was given */
  dInitialState?: ResultTensor;
}

/**
 * Causal depthwise convolution over the tokens, with a state that carries the last W-1 inputs on:
 *
 *     y[b,t,d] = act(bias[d] + sum_w weight[d,w] x[b, t-(W-1)+w, d])
 *
 * Computed in float32. y has the dtype of x; weight and bias have it too or are float32; states are float32.
 * A decode gives one token at a time and a `state`, which then holds the last W-1 inputs of each sequence.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument, unknown key or options that contradict each other;
 * RangeError for a wrong shape or value; Error for a state that is disposed or in use
 * @see Fu et al., Hungry Hungry Hippos: Towards Language Modeling with State Space Models, 2022 (arXiv:2212.14052)
 */
export const shortConv: AsyncLayer<Dtypes, ShortConvInputs, ShortConvOptions, ShortConvResult> =
  asynchronous('shortConv');

/**
 * {@link shortConv} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const shortConvSync: SyncLayer<Dtypes, ShortConvInputs, ShortConvOptions, ShortConvResult> =
  synchronous('shortConv');

/**
 * Gradients of {@link shortConv} from dY `[B,T,D]` and dFinalState `[N,D,W-1]`.
 * @throws (rejects) as {@link shortConv}
 */
export const shortConvBackward: AsyncLayerBackward<
  Dtypes,
  ShortConvBackwardInputs,
  ShortConvBackwardOptions,
  ShortConvBackwardResult
> = asynchronous('shortConvBackward');

/**
 * {@link shortConvBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const shortConvBackwardSync: SyncLayerBackward<
  Dtypes,
  ShortConvBackwardInputs,
  ShortConvBackwardOptions,
  ShortConvBackwardResult
> = synchronous('shortConvBackward');
