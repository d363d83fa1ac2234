import { asynchronous, synchronous } from '../marshal';
import type { AsyncOperation, CallOptions, ResultTensor, SyncOperation, Tensor } from '../types';

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
  extends CallOptions<'dx' | 'dWeight' | 'dBias' | 'dInitialState'> {
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
 * Causal depthwise convolution over the tokens, float32, with a state that carries the last W-1 inputs on:
 *
 *     y[b,t,d] = act(bias[d] + sum_w weight[d,w] x[b, t-(W-1)+w, d])
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value
 */
export const shortConv: AsyncOperation<ShortConvInputs, ShortConvOptions, ShortConvResult> =
  asynchronous('shortConv');

/**
 * {@link shortConv} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const shortConvSync: SyncOperation<ShortConvInputs, ShortConvOptions, ShortConvResult> =
  synchronous('shortConv');

/**
 * Gradients of {@link shortConv} from dY `[B,T,D]` and dFinalState `[B,D,W-1]`.
 * @throws (rejects) as {@link shortConv}
 */
export const shortConvBackward: AsyncOperation<
  ShortConvBackwardInputs,
  ShortConvBackwardOptions,
  ShortConvBackwardResult
> = asynchronous('shortConvBackward');

/**
 * {@link shortConvBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const shortConvBackwardSync: SyncOperation<
  ShortConvBackwardInputs,
  ShortConvBackwardOptions,
  ShortConvBackwardResult
> = synchronous('shortConvBackward');
