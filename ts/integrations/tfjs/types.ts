import type { Tensor } from '@tensorflow/tfjs-core';
import type { RecurrentState } from '../../state';

type PlainTensor = { readonly data: ArrayBufferView; readonly shape: readonly number[] };
type Untouched = RecurrentState | ArrayBufferView | readonly unknown[];

/** T with a `tf.Tensor` in the place of every tensor `{data, shape}`. */
export type WithTensors<T> = T extends Untouched
  ? T
  : T extends PlainTensor
    ? Tensor
    : T extends object
      ? { [K in keyof T]: WithTensors<T[K]> }
      : T;

/** How a differentiable recurrence treats the tape. */
export interface TapeOptions {
  /**
   * While gradients are being taken, keep what the backward would otherwise recompute; default true. `false` spends time
   * to save memory.
   */
  saveForBackward?: boolean;
}

/** The option that operations over `tf.Tensor`s lack. */
export interface ResultOptions {
  /** TensorFlow.js owns the memory of its tensors. */
  out?: undefined;
}

/** The options of an operation, but for those that say where its results are to be stored. */
export type TensorOptions<Options> = WithTensors<Omit<Options, 'out' | 'saveForBackward'>> &
  ('saveForBackward' extends keyof Options ? ResultOptions & TapeOptions : ResultOptions);

/** What an operation returns, as tensors. */
export type TensorResult<Result> = WithTensors<Omit<Result, 'saved'>>;

/**
 * An operation over `tf.Tensor`s, with gradients of the first order through each of its outputs. The results belong to
 * the innermost `tf.tidy`, as those of TensorFlow.js do.
 */
export type DifferentiableOperation<Inputs, Options, Result> =
  Record<never, never> extends TensorOptions<Options>
    ? (inputs: WithTensors<Inputs>, options?: TensorOptions<Options>) => TensorResult<Result>
    : (inputs: WithTensors<Inputs>, options: TensorOptions<Options>) => TensorResult<Result>;
