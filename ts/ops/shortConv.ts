import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** x, y and dY have one dtype; weight and bias have it too or are float32; states are float32. */
type Dtypes = {
  lead: 'x';
  same: 'y' | 'dY' | 'dx';
  either: 'weight' | 'bias' | 'dWeight' | 'dBias';
};

/** Inputs of {@link shortConv}. D channels, W taps. */
export interface ShortConvInputs {
  /** `[B,T,D]` */
  x: Tensor;
  /** `[D,W]`; `weight[:,W-1]` meets the current token */
  weight: Tensor;
  /** `[D]` */
  bias?: Tensor;
  /** `[B,D,W-1]`: the inputs before the first token, oldest first; absent means zeros */
  initialState?: Tensor;
}

/** Options of {@link shortConv}. */
export interface ShortConvOptions extends CallOptions<'y' | 'finalState'> {
  /** Applied to the sum; default `'none'`. */
  activation?: 'none' | 'silu';
  /** Return `finalState`; default false. */
  outputFinalState?: boolean;
}

/** What {@link shortConv} returns. */
export interface ShortConvResult {
  /** `[B,T,D]` */
  y: ResultTensor;
  /** `[B,D,W-1]`, with `outputFinalState`: the initialState of what follows */
  finalState?: ResultTensor;
}

/** Inputs of {@link shortConvBackward}. */
export interface ShortConvBackwardInputs extends ShortConvInputs {
  /** Gradient of y, `[B,T,D]`. */
  dY: Tensor;
  /** Gradient of finalState, `[B,D,W-1]`; absent means zero. */
  dFinalState?: Tensor;
}

/** Options of {@link shortConvBackward}. */
export interface ShortConvBackwardOptions
  extends GradientOption,
    CallOptions<'dx' | 'dWeight' | 'dBias' | 'dInitialState'> {
  /** As in the forward. */
  activation?: 'none' | 'silu';
}

/** What {@link shortConvBackward} returns. */
export interface ShortConvBackwardResult {
  /** `[B,T,D]` */
  dx: ResultTensor;
  /** `[D,W]` */
  dWeight: ResultTensor;
  /** `[D]`, when bias was given */
  dBias?: ResultTensor;
  /** `[B,D,W-1]`, when initialState was given */
  dInitialState?: ResultTensor;
}

/**
 * Causal depthwise convolution over the tokens, with a state that carries the last W-1 inputs on:
 *
 *     y[b,t,d] = act(bias[d] + sum_w weight[d,w] x[b, t-(W-1)+w, d])
 *
 * Computed in float32. y has the dtype of x; weight and bias have it too or are float32; states are float32.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value
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
 * Gradients of {@link shortConv} from dY `[B,T,D]` and dFinalState `[B,D,W-1]`.
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
