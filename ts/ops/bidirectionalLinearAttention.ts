import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, IndexArray, ResultTensor, Tensor } from '../types';
import type { FeatureMapKind } from './featureMap';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** q, k, v, o and dO have one dtype; what stands beside them has it too or is float32. */
type Dtypes = {
  lead: 'q';
  same: 'k' | 'v' | 'o' | 'dO' | 'dq' | 'dk' | 'dv';
  either:
    | 'alpha'
    | 'modulate'
    | 'qWeight'
    | 'kWeight'
    | 'dAlpha'
    | 'dModulate'
    | 'dQWeight'
    | 'dKWeight';
};

/**
 * Tensors of {@link bidirectionalLinearAttention}. B batch, T queries, S keys, H heads, HKV heads of keys and values (a
 * divisor of H).
 */
export interface BidirectionalLinearAttentionInputs {
  /** `[B,T,H,K]` */
  q: Tensor;
  /** `[B,S,HKV,K]`; head h of q meets head `floor(h / (H/HKV))` */
  k: Tensor;
  /** `[B,S,HKV,V]` */
  v: Tensor;
  /** `[B,S,HKV]`: weights of the keys */
  alpha?: Tensor;
  /** `[B,T,H,V]`: o is multiplied by it */
  modulate?: Tensor;
  /** Hedgehog's projection of the queries, `[H,K,D]`, or `[K,D]` for all heads. */
  qWeight?: Tensor;
  /** That of the keys, `[HKV,K,D]` or `[K,D]`. */
  kWeight?: Tensor;
}

/** How queries meet keys. */
export interface BidirectionalLinearAttentionForm {
  /**
   * The map phi, of one head at a time, applied inside; default 'none', for what has been mapped. FLatten's own code has its
   * norms over the channels of all heads and a learned scale: that is `featureMap` of `[B,T,H K]` with `scale`, reshaped to
   * heads, and 'none' here.
   */
  featureMap?: FeatureMapKind | 'none';
  /** With featureMap 'focused': its p, an integer from 1 to 64; default 3. */
  power?: number;
  /** Divide by the sum of a query's weights; default true. */
  normalize?: boolean;
  /** Weigh the keys by their products with the mean query (RALA); default false. */
  rankAugmented?: boolean;
  /** Of the output; default 1. */
  scale?: number;
  /** Added to what the output is divided by; default 1e-6. */
  eps?: number;
  /** Starts of packed sequences among the queries, `[N+1]`: B = 1. Among the keys too, unless cuSeqlensK is given. */
  cuSeqlens?: IndexArray;
  /** Starts among the keys, `[N+1]`. */
  cuSeqlensK?: IndexArray;
}

/** Options of {@link bidirectionalLinearAttention}. */
export interface BidirectionalLinearAttentionOptions
  extends BidirectionalLinearAttentionForm,
    CallOptions<'o'> {}

/** What {@link bidirectionalLinearAttention} returns. */
export interface BidirectionalLinearAttentionResult {
  /** `[B,T,H,V]` */
  o: ResultTensor;
}

/** Inputs of {@link bidirectionalLinearAttentionBackward}. */
export interface BidirectionalLinearAttentionBackwardInputs
  extends BidirectionalLinearAttentionInputs {
  /** Gradient of o, `[B,T,H,V]`. */
  dO: Tensor;
}

/** Options of {@link bidirectionalLinearAttentionBackward}. */
export interface BidirectionalLinearAttentionBackwardOptions
  extends BidirectionalLinearAttentionForm,
    GradientOption,
    CallOptions<'dq' | 'dk' | 'dv' | 'dAlpha' | 'dModulate' | 'dQWeight' | 'dKWeight'> {}

/** What {@link bidirectionalLinearAttentionBackward} returns. */
export interface BidirectionalLinearAttentionBackwardResult {
  /** `[B,T,H,K]` */
  dq: ResultTensor;
  /** `[B,S,HKV,K]` */
  dk: ResultTensor;
  /** `[B,S,HKV,V]` */
  dv: ResultTensor;
  /** `[B,S,HKV]`, when alpha was given */
  dAlpha?: ResultTensor;
  /** `[B,T,H,V]`, when modulate was given */
  dModulate?: ResultTensor;
  /** Of qWeight's shape, when it was given. */
  dQWeight?: ResultTensor;
  /** Of kWeight's shape, when it was given. */
  dKWeight?: ResultTensor;
}

/**
 * Linear attention without order: every query sees every key of its sequence, in time that grows with T + S.
 *
 *     M = sum_s alpha_s phi(k_s) v_s^T,   z = sum_s alpha_s phi(k_s)
 *     o_t = scale phi(q_t)^T M / (phi(q_t) . z + eps) * modulate_t          without normalize: not divided
 *
 * phi is a map of {@link featureMap}, made tile by tile and never stored; a query whose sum of weights and eps are 0 has
 * o = 0. With `rankAugmented` the weights are those of RALA, `alpha_s = S softmax_s(K^-1/2 phi(k_s) . m)`, m being the
 * mean of phi(q) over the sequence's queries (and the heads that share its keys), and `modulate` its phi(x).
 *
 * q, k and v are all float32, all bf16 or all f16, and o has their dtype; sums are float32. The bits of a sequence's
 * results depend neither on threads nor on the rest of the batch.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument, unknown key or contradiction; RangeError for a
 * wrong shape or value, bad starts, or when memory is short; `signal.reason` after an abort
 * @see Katharopoulos et al., Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention, 2020 (arXiv:2006.16236)
 * @see Fan et al., Breaking the Low-Rank Dilemma of Linear Attention, 2024 (arXiv:2411.07635)
 * @see Han et al., FLatten Transformer: Vision Transformer using Focused Linear Attention, 2023 (arXiv:2308.00442)
 */
export const bidirectionalLinearAttention: AsyncLayer<
  Dtypes,
  BidirectionalLinearAttentionInputs,
  BidirectionalLinearAttentionOptions,
  BidirectionalLinearAttentionResult
> = asynchronous('bidirectionalLinearAttention');

/**
 * {@link bidirectionalLinearAttention} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const bidirectionalLinearAttentionSync: SyncLayer<
  Dtypes,
  BidirectionalLinearAttentionInputs,
  BidirectionalLinearAttentionOptions,
  BidirectionalLinearAttentionResult
> = synchronous('bidirectionalLinearAttention');

/**
 * Gradients of {@link bidirectionalLinearAttention} from dO `[B,T,H,V]`, through the map and the rank augmentation.
 * Features are made again; memory beside the results: F V floats for every 512 tokens of a head, or for 2 F of them where
 * that is more.
 * @throws (rejects) as {@link bidirectionalLinearAttention}
 */
export const bidirectionalLinearAttentionBackward: AsyncLayerBackward<
  Dtypes,
  BidirectionalLinearAttentionBackwardInputs,
  BidirectionalLinearAttentionBackwardOptions,
  BidirectionalLinearAttentionBackwardResult
> = asynchronous('bidirectionalLinearAttentionBackward');

/**
 * {@link bidirectionalLinearAttentionBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const bidirectionalLinearAttentionBackwardSync: SyncLayerBackward<
  Dtypes,
  BidirectionalLinearAttentionBackwardInputs,
  BidirectionalLinearAttentionBackwardOptions,
  BidirectionalLinearAttentionBackwardResult
> = synchronous('bidirectionalLinearAttentionBackward');
