import { asynchronous, synchronous } from '../marshal';
import type { AsyncOperation, FloatTensor, SyncOperation, Tensor } from '../types';

/** Inputs of {@link adamW}, of one shape. param, m and v are updated in place and share memory with nothing else. */
export interface AdamWInputs {
  /** the parameters, updated */
  param: Tensor;
  /** their gradient, of any float dtype */
  grad: FloatTensor;
  /** running mean of the gradient, updated; zeros before step 1 */
  m: Tensor;
  /** running mean of its square, updated; zeros before step 1 */
  v: Tensor;
}

/** Options of {@link adamW}. */
export interface AdamWOptions {
  /** Number of this step, from 1. */
  step: number;
  /** Learning rate. */
  lr: number;
  /** Default 0.9. */
  beta1?: number;
  /** Default 0.999. */
  beta2?: number;
  /** Default 1e-8. */
  eps?: number;
  /** Decoupled weight decay, times lr; default 0.01. */
  weightDecay?: number;
}

/** {@link adamW} returns nothing: it works in place. */
export type AdamWResult = Record<string, never>;

/**
 * One step of Adam with decoupled weight decay, in place, float32:
 *
 *     param <- (1 - lr weightDecay) param
 *     m <- beta1 m + (1 - beta1) grad;   v <- beta2 v + (1 - beta2) grad^2
 *     param <- param - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
 *
 * The asynchronous form works on copies and writes param, m and v on completion. Asynchronous updates of the same memory
 * must not overlap, since the second would start from what the first has not written yet: await one before the next.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value, or memory that two of them share
 * @see Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2017 (arXiv:1711.05101)
 */
export const adamW: AsyncOperation<AdamWInputs, AdamWOptions, AdamWResult> = asynchronous('adamW');

/**
 * {@link adamW} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const adamWSync: SyncOperation<AdamWInputs, AdamWOptions, AdamWResult> =
  synchronous('adamW');
