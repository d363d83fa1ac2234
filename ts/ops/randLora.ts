import { asynchronous, synchronous } from '../marshal';
import type {
  AsyncOperation,
  CallOptions,
  FloatTensor,
  ResultTensor,
  SyncOperation,
  Tensor,
} from '../types';

/** Inputs of {@link randLora}. */
export interface RandLoraInputs {
  /** `[rank,in]`, one for all terms, or `[count,rank,in]`; random and fixed */
  a: FloatTensor;
  /** `[count,out,rank]`, random and fixed */
  b: FloatTensor;
  /** `[count,rank]`, trained */
  lambda: Tensor;
  /** `[count,in]`, trained */
  gamma: Tensor;
}

/** Options of {@link randLora}. */
export interface RandLoraOptions extends CallOptions<'delta'> {
  /** Factor of the sum; default 1. */
  scale?: number;
}

/** What {@link randLora} returns. */
export interface RandLoraResult {
  /** `[out,in]` */
  delta: ResultTensor;
}

/** Inputs of {@link randLoraBackward}. */
export interface RandLoraBackwardInputs extends RandLoraInputs {
  /** Gradient of delta, `[out,in]`. */
  dDelta: Tensor;
}

/** Options of {@link randLoraBackward}. */
export interface RandLoraBackwardOptions extends CallOptions<'dLambda' | 'dGamma'> {
  /** As in the forward. */
  scale?: number;
}

/** What {@link randLoraBackward} returns. */
export interface RandLoraBackwardResult {
  /** Shape of lambda. */
  dLambda: ResultTensor;
  /** Shape of gamma. */
  dGamma: ResultTensor;
}

/**
 * RandLoRA's update of a weight `[out,in]`: `delta = scale * sum_i b_i diag(lambda_i) a diag(gamma_i)`, of full rank where
 * count times rank is.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value
 * @see Albert et al., RandLoRA: Full-rank parameter-efficient fine-tuning of large models, 2025 (arXiv:2502.00987)
 */
export const randLora: AsyncOperation<RandLoraInputs, RandLoraOptions, RandLoraResult> =
  asynchronous('randLora');

/**
 * {@link randLora} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const randLoraSync: SyncOperation<RandLoraInputs, RandLoraOptions, RandLoraResult> =
  synchronous('randLora');

/**
 * Gradients of what {@link randLora} trains, from dDelta: with `G_i = b_i^T dDelta`, element by element times a,
 * `dLambda_i = scale (G_i a) gamma_i` and `dGamma_i = scale lambda_i (G_i a)`.
 * @throws (rejects) as {@link randLora}
 */
export const randLoraBackward: AsyncOperation<
  RandLoraBackwardInputs,
  RandLoraBackwardOptions,
  RandLoraBackwardResult
> = asynchronous('randLoraBackward');

/**
 * {@link randLoraBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const randLoraBackwardSync: SyncOperation<
  RandLoraBackwardInputs,
  RandLoraBackwardOptions,
  RandLoraBackwardResult
> = synchronous('randLoraBackward');
