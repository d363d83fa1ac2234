import type { KvCache } from '../kvCache';
import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, IndexArray, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** q, k, v, o and dO have one dtype; the gate has it too or is float32; sinks and lse are float32. */
type Dtypes = {
  lead: 'q';
  same: 'k' | 'v' | 'o' | 'dO' | 'dq' | 'dk' | 'dv';
  either: 'gate' | 'dGate';
};

/** Tensors of {@link attention}. B batch, T queries, S keys, H heads, HKV heads of keys and values (a divisor of H). */
export interface AttentionTensors {
  /** `[B,T,H,K]`, K 1 to 1024 */
  q: Tensor;
  /** `[B,S,HKV,K]`; head h of q meets head `floor(h / (H/HKV))` */
  k: Tensor;
  /** `[B,S,HKV,V]`, V 1 to 1024 */
  v: Tensor;
  /** `[H]`: a score more in every softmax of a head, without a value (gpt-oss) */
  sinks?: Tensor;
  /** `[B,T,H,V]`: o is multiplied by its sigmoid */
  gate?: Tensor;
}

/** Inputs of {@link attention}. */
export interface AttentionInputs extends AttentionTensors {
  /**
   * Keys and values of the tokens before those of k and v, which are then put behind them: S = T, and one slot to a
   * sequence. Keys and values are rounded to its dtype before anything attends to them.
   */
  cache?: KvCache;
}

/** What a query sees, and how. */
export interface AttentionMaskOptions {
  /** No key after the query's own position; default true. The last query has the position of the last key. */
  causal?: boolean;
  /**
   * `[left, right]`: of the keys those from `left` positions before the query to `right` after it; integers, or
   * `Infinity`. A window of W tokens that has the query's own in it is `[W - 1, 0]`.
   */
  window?: readonly [left: number, right: number];
  /** The first so many keys of a sequence are seen through any window (StreamingLLM); default 0. */
  sinkTokens?: number;
  /** Of the scores; default K^-0.5. */
  scale?: number;
  /** Scores s become `softcap tanh(s / softcap)`; 0, the default, leaves them. */
  softcap?: number;
  /** Starts of packed sequences among the queries, `[N+1]`: B = 1. Among the keys too, unless cuSeqlensK is given. */
  cuSeqlens?: IndexArray;
  /** Starts among the keys, `[N+1]`. */
  cuSeqlensK?: IndexArray;
}

/** Options of {@link attention}. */
export interface AttentionOptions extends AttentionMaskOptions, CallOptions<'o' | 'lse'> {
  /** Return `lse`; default false. */
  outputLse?: boolean;
  /** With a cache: the slot of every sequence, each at most once; default 0, 1, ... */
  stateIndices?: Int32Array;
}

/** What {@link attention} returns. */
export interface AttentionResult {
  /** `[B,T,H,V]` */
  o: ResultTensor;
  /** `[B,T,H]`, with `outputLse`: the logarithm of the sum that the softmax divides by; -Infinity where nothing is seen */
  lse?: ResultTensor;
}

/** Inputs of {@link attentionBackward}. */
export interface AttentionBackwardInputs extends AttentionTensors {
  /** Gradient of o, `[B,T,H,V]`. */
  dO: Tensor;
  /** Gradient of lse, `[B,T,H]`; absent means zero. */
  dLse?: Tensor;
  /** What the forward returned, beside lse; without both it is computed again. Of half width it takes its rounding along. */
  o?: Tensor;
  /** `[B,T,H]`, what the forward returned. */
  lse?: Tensor;
}

/** Options of {@link attentionBackward}. */
export interface AttentionBackwardOptions
  extends AttentionMaskOptions,
    GradientOption,
    CallOptions<'dq' | 'dk' | 'dv' | 'dSinks' | 'dGate'> {}

/** What {@link attentionBackward} returns. */
export interface AttentionBackwardResult {
  /** `[B,T,H,K]` */
  dq: ResultTensor;
  /** `[B,S,HKV,K]` */
  dk: ResultTensor;
  /** `[B,S,HKV,V]` */
  dv: ResultTensor;
  /** `[H]`, when sinks were given */
  dSinks?: ResultTensor;
  /** `[B,T,H,V]`, when a gate was given */
  dGate?: ResultTensor;
}

/**
 * Softmax attention, for the layers of a hybrid that are no recurrence:
 *
 *     s_ij = scale q_i . k_j                               softcap tanh(s / softcap) with that option
 *     o_i = sigmoid(gate_i) sum_j e^(s_ij) v_j / (e^sink + sum_j e^(s_ij))
 *
 * over the keys j that query i sees: with positions counted from the end, so that the last query stands at the last key,
 * none after it (`causal`), and those inside `window` or among the first `sinkTokens`. A query that sees none has o = 0.
 * No memory of size T x S: blocks of keys, with a softmax that goes on from block to block (Dao et al., "FlashAttention",
 * 2022, arXiv:2205.14135). A key that is not seen leaves no trace, even where it is NaN.
 *
 * With a cache the call is a step of a decode, of one token or of many, and the same as its rows of a call over the whole
 * sequence.
 *
 * q, k and v are all float32, all bf16 or all f16, and o has their dtype; sums are float32. The bits of a sequence's
 * results depend neither on threads nor on the rest of the batch.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument, unknown key or contradiction; RangeError for a
 * wrong shape or value, bad starts or slots, a cache without room, or when memory is short; Error for a disposed or busy
 * cache; `signal.reason` after an abort. Where a call with a cache rejects because an array of `out` was detached meanwhile, its tokens are
 * in the cache
 *
 * @example
 * const { o } = await attention({ q, k, v }, { window: [4095, 0] }); // the last 4096 tokens, the query's own among them
 */
export const attention: AsyncLayer<Dtypes, AttentionInputs, AttentionOptions, AttentionResult> =
  asynchronous('attention');

/**
 * {@link attention} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const attentionSync: SyncLayer<Dtypes, AttentionInputs, AttentionOptions, AttentionResult> =
  synchronous('attention');

/**
 * Gradients of {@link attention} from dO `[B,T,H,V]` and dLse `[B,T,H]`. The weights are made again block by block from
 * lse. Beside that, dq is summed in memory of its size, up to eight times that for a single head of keys.
 * @throws (rejects) as {@link attention}
 */
export const attentionBackward: AsyncLayerBackward<
  Dtypes,
  AttentionBackwardInputs,
  AttentionBackwardOptions,
  AttentionBackwardResult
> = asynchronous('attentionBackward');

/**
 * {@link attentionBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const attentionBackwardSync: SyncLayerBackward<
  Dtypes,
  AttentionBackwardInputs,
  AttentionBackwardOptions,
  AttentionBackwardResult
> = synchronous('attentionBackward');
