import type { KvCache } from '../kvCache';
import { asynchronous, synchronous } from '../marshal';
import type { RecurrentState } from '../state';
import type { CallOptions, IndexArray, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** All but states have one dtype. */
type Dtypes = {
  lead: 'q';
  same:
    | 'k'
    | 'v'
    | 'windowQ'
    | 'windowK'
    | 'o'
    | 'dO'
    | 'dq'
    | 'dk'
    | 'dv'
    | 'dWindowQ'
    | 'dWindowK';
  either: never;
};

/** Tensors of {@link ligerAttention}. B batch, T tokens, H heads, HKV heads of keys and values (a divisor of H). */
export interface LigerAttentionTensors {
  /** `[B,T,H,K]`, K 1 to 512 */
  q: Tensor;
  /** `[B,T,HKV,K]`; head h of q meets head `floor(h / (H/HKV))` */
  k: Tensor;
  /** `[B,T,HKV,V]`, V 1 to 512 */
  v: Tensor;
  /** `[B,T,H,K]`: the window's queries, such as q after `rope`; absent, q */
  windowQ?: Tensor;
  /** `[B,T,HKV,K]`, beside windowQ: the window's keys */
  windowK?: Tensor;
  /** `[N,H,K,V]`: state of the linear part */
  initialState?: Tensor;
}

/** Inputs of {@link ligerAttention}. */
export interface LigerAttentionInputs extends LigerAttentionTensors {
  /** With `cache`, for a decode: state of the linear part, advanced in place; `valueHeads` H. */
  state?: RecurrentState;
  /** With `state`: keys (the window's) and values of `HKV` heads; its `window` is at least `window - 1`. */
  cache?: KvCache;
}

/** How the two parts are made and mixed. */
export interface LigerAttentionMix {
  /** Tokens of the window, the query's own among them; default 64. */
  window?: number;
  /** What log gates are divided by; default 16. */
  gateNormalizer?: number;
  /** `[a, b]`: weights of the linear part and of the window; default `[0.5, 0.5]`. */
  mix?: readonly [linear: number, window: number];
  /** Of the window's scores; default K^-0.5. The linear part has none. */
  scale?: number;
  /** Starts of packed sequences, `[N+1]`: B = 1. */
  cuSeqlens?: IndexArray;
}

/** Options of {@link ligerAttention}. */
export interface LigerAttentionOptions extends LigerAttentionMix, CallOptions<'o' | 'finalState'> {
  /** Return `finalState`; default false. */
  outputFinalState?: boolean;
  /** With state and cache: the slot of every sequence in both, each at most once; default 0, 1, ... */
  stateIndices?: Int32Array;
}

/** What {@link ligerAttention} returns. */
export interface LigerAttentionResult {
  /** `[B,T,H,V]` */
  o: ResultTensor;
  /** `[N,H,K,V]`, with `outputFinalState` */
  finalState?: ResultTensor;
}

/** Inputs of {@link ligerAttentionBackward}. */
export interface LigerAttentionBackwardInputs extends LigerAttentionTensors {
  /** Gradient of o, `[B,T,H,V]`. */
  dO: Tensor;
  /** Gradient of finalState, `[N,H,K,V]`; absent means zero. */
  dFinalState?: Tensor;
}

/** Options of {@link ligerAttentionBackward}. */
export interface LigerAttentionBackwardOptions
  extends LigerAttentionMix,
    GradientOption,
    CallOptions<'dq' | 'dk' | 'dv' | 'dWindowQ' | 'dWindowK' | 'dInitialState'> {}

/** What {@link ligerAttentionBackward} returns. */
export interface LigerAttentionBackwardResult {
  /** `[B,T,H,K]` */
  dq: ResultTensor;
  /** `[B,T,HKV,K]` */
  dk: ResultTensor;
  /** `[B,T,HKV,V]` */
  dv: ResultTensor;
  /** `[B,T,H,K]`, when windowQ was given */
  dWindowQ?: ResultTensor;
  /** `[B,T,HKV,K]`, beside it */
  dWindowK?: ResultTensor;
  /** `[N,H,K,V]`, when an initial state was given */
  dInitialState?: ResultTensor;
}

/**
 * A softmax model's attention as a gated recurrence without new parameters (Lan et al., "Liger: Linearizing large language
 * models to gated recurrent structures", 2025, arXiv:2503.01496): gated linear attention whose features are softmaxes over
 * a head's width and whose gates come from the keys, mixed with softmax attention inside a window:
 *
 *     o = a gla(softmax(q), softmax(k), v, g) + b attention(q, k, v in the window),   g = logsigmoid(k) / gateNormalizer
 *
 * with scale 1 in the linear part. The paper pools the keys for its gates; in the form of gated linear attention, a gate
 * for each channel, that leaves them as they are. Where positions are rotary, only the window has them: `windowQ` and
 * `windowK`.
 *
 * With `state` and `cache` a call is a step of a decode, of one token or of many, and the same as its rows of a call over
 * the whole sequence.
 *
 * All are float32, all bf16 or all f16, and o has their dtype; what is between is float32. Beside the results a call takes
 * memory for features, gates and values of H heads.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument, unknown key or contradiction; RangeError for a
 * wrong shape or value, bad starts or slots, a cache that keeps too little, or when memory is short; Error for a disposed,
 * busy or poisoned state or cache; `signal.reason` after an abort, which leaves the state poisoned
 */
export const ligerAttention: AsyncLayer<
  Dtypes,
  LigerAttentionInputs,
  LigerAttentionOptions,
  LigerAttentionResult
> = asynchronous('ligerAttention');

/**
 * {@link ligerAttention} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const ligerAttentionSync: SyncLayer<
  Dtypes,
  LigerAttentionInputs,
  LigerAttentionOptions,
  LigerAttentionResult
> = synchronous('ligerAttention');

/**
 * Gradients of {@link ligerAttention}: those of its two parts, through features and gates.
 * @throws (rejects) as {@link ligerAttention}
 */
export const ligerAttentionBackward: AsyncLayerBackward<
  Dtypes,
  LigerAttentionBackwardInputs,
  LigerAttentionBackwardOptions,
  LigerAttentionBackwardResult
> = asynchronous('ligerAttentionBackward');

/**
 * {@link ligerAttentionBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const ligerAttentionBackwardSync: SyncLayerBackward<
  Dtypes,
  LigerAttentionBackwardInputs,
  LigerAttentionBackwardOptions,
  LigerAttentionBackwardResult
> = synchronous('ligerAttentionBackward');
