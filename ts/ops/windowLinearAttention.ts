import { rangeError, show, typeError, underName, unknownKey } from '../errors';
import { createKvCache, type KvCache } from '../kvCache';
import { asynchronous, synchronous } from '../marshal';
import { createState, type RecurrentState } from '../state';
import type { CallOptions, FloatDType, IndexArray, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** q, k, v, o and dO have one dtype; phiQ and phiK both have it or both are float32; all else is float32. */
type Dtypes = {
  lead: 'q';
  same: 'k' | 'v' | 'o' | 'dO' | 'dq' | 'dk' | 'dv';
  either: 'phiQ' | 'phiK' | 'dPhiQ' | 'dPhiK';
};

/**
 * Tensors of {@link windowLinearAttention}. B batch, T tokens, H heads, HKV heads of keys and values (a divisor of H), HF
 * heads of mapped keys (a divisor of H and a multiple of HKV), F features.
 */
export interface WindowLinearAttentionTensors {
  /** `[B,T,H,K]`, K 1 to 1024 */
  q: Tensor;
  /** `[B,T,HKV,K]`; head h of q meets head `floor(h / (H/HKV))` */
  k: Tensor;
  /** `[B,T,HKV,V]`, V 1 to 1024 */
  v: Tensor;
  /** `[B,T,H,F]`, F 1 to 4096: q through a feature map, such as Hedgehog's */
  phiQ: Tensor;
  /** `[B,T,HF,F]`: k through a feature map; head h of phiQ meets head `floor(h / (H/HF))` */
  phiK: Tensor;
  /** `[H]`: gamma is their sigmoid; absent, gamma = 1 */
  windowFactors?: Tensor;
  /** `[N,HF,F,V]`, beside initialZ: sums of phiK v^T over tokens before these, which no window holds */
  initialState?: Tensor;
  /** `[N,HF,F]`: sums of phiK over the same */
  initialZ?: Tensor;
}

/** Inputs of {@link windowLinearAttention}. */
export interface WindowLinearAttentionInputs extends WindowLinearAttentionTensors {
  /**
   * With `cache`, for a decode: what has left the windows, advanced in place. `batch` slots, `valueHeads` and `keyHeads`
   * HF, `keyDim` F, `valueDim` V.
   */
  state?: RecurrentState;
  /**
   * With `state`: the tokens that windows still reach, each as a key of `keyDim` K + F HF / HKV (k, then phiK of its
   * group's heads) and a value. Its `window` is at least `window - 1`, and `2 window - 1` where it is terraced; its dtype
   * f32, or that of q and phiQ.
   */
  cache?: KvCache;
}

/** What is in the window, and how it weighs. */
export interface WindowLinearAttentionWindow {
  /** w: tokens of the window, the query's own among them; default 64. */
  window?: number;
  /**
   * Windows by blocks of w tokens: the query's block up to its own token and the whole block before that, as
   * ThunderKittens' kernels have them. Default false: the last w tokens.
   */
  terraced?: boolean;
  /** lambda = 1 - gamma; default false: lambda = 1. */
  affine?: boolean;
  /** Of the window's scores; default K^-0.5. */
  scale?: number;
  /** Starts of packed sequences, `[N+1]`: B = 1. */
  cuSeqlens?: IndexArray;
}

/** Options of {@link windowLinearAttention}. */
export interface WindowLinearAttentionOptions
  extends WindowLinearAttentionWindow,
    CallOptions<'o' | 'finalState' | 'finalZ'> {
  /** Return `finalState` and `finalZ`; default false. */
  outputFinalState?: boolean;
  /** With state and cache: the slot of every sequence in both, each at most once; default 0, 1, ... */
  stateIndices?: Int32Array;
}

/** What {@link windowLinearAttention} returns. */
export interface WindowLinearAttentionResult {
  /** `[B,T,H,V]` */
  o: ResultTensor;
  /** `[N,HF,F,V]`, with `outputFinalState`: the initial state and all tokens, those of the last window too */
  finalState?: ResultTensor;
  /** `[N,HF,F]`, beside it */
  finalZ?: ResultTensor;
}

/** Inputs of {@link windowLinearAttentionBackward}. */
export interface WindowLinearAttentionBackwardInputs extends WindowLinearAttentionTensors {
  /** Gradient of o, `[B,T,H,V]`. */
  dO: Tensor;
  /** Gradient of finalState, `[N,HF,F,V]`, beside dFinalZ; absent means zero. */
  dFinalState?: Tensor;
  /** Gradient of finalZ, `[N,HF,F]`. */
  dFinalZ?: Tensor;
}

/** Options of {@link windowLinearAttentionBackward}. */
export interface WindowLinearAttentionBackwardOptions
  extends WindowLinearAttentionWindow,
    GradientOption,
    CallOptions<
      'dq' | 'dk' | 'dv' | 'dPhiQ' | 'dPhiK' | 'dWindowFactors' | 'dInitialState' | 'dInitialZ'
    > {}

/** What {@link windowLinearAttentionBackward} returns: gradients in the shapes of what they belong to. */
export interface WindowLinearAttentionBackwardResult {
  /** `[B,T,H,K]` */
  dq: ResultTensor;
  /** `[B,T,HKV,K]` */
  dk: ResultTensor;
  /** `[B,T,HKV,V]` */
  dv: ResultTensor;
  /** `[B,T,H,F]` */
  dPhiQ: ResultTensor;
  /** `[B,T,HF,F]` */
  dPhiK: ResultTensor;
  /** `[H]`, when windowFactors were given */
  dWindowFactors?: ResultTensor;
  /** `[N,HF,F,V]`, when an initial state was given */
  dInitialState?: ResultTensor;
  /** `[N,HF,F]`, beside it */
  dInitialZ?: ResultTensor;
}

/**
 * Softmax attention inside a window W(t) and linear attention with mapped features before it, under one normaliser (Zhang
 * et al., "LoLCATs: On low-rank linearizing of large language models", 2024, arXiv:2410.10254):
 *
 *     o_t = (gamma sum_W e^(scale q_t . k_i - c_t) v_i + lambda sum_before (phiQ_t . phiK_i) v_i)
 *         / (gamma sum_W e^(scale q_t . k_i - c_t)     + lambda sum_before  phiQ_t . phiK_i)
 *
 * with c_t the largest score of the window, gamma = sigmoid(windowFactors_h) and lambda = 1, or 1 - gamma (`affine`). As
 * the terms before the window do not have it, c_t is part of the function and of its gradient. Feature maps should not be
 * negative: nothing is done about a normaliser that vanishes.
 *
 * What lies before the windows is a state of size F x V, whatever T. With `state` and `cache`, from
 * {@link createWindowLinearCache}, a call is a step of a decode, of one token or of many, in memory that does not grow,
 * and the same as its rows of a call over the whole sequence. An `initialState` instead stands for tokens that no window
 * holds, as those of segments before this one when long sequences are trained with a state.
 *
 * q, k and v are all float32, all bf16 or all f16, and o has their dtype; sums are float32. The bits of a sequence's
 * results depend neither on threads nor on the rest of the batch.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument, unknown key or contradiction; RangeError for a
 * wrong shape or value, bad starts or slots, a cache that keeps too little, or when memory is short; Error for a disposed,
 * busy or poisoned state or cache; `signal.reason` after an abort, which leaves the state poisoned
 */
export const windowLinearAttention: AsyncLayer<
  Dtypes,
  WindowLinearAttentionInputs,
  WindowLinearAttentionOptions,
  WindowLinearAttentionResult
> = asynchronous('windowLinearAttention');

/**
 * {@link windowLinearAttention} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const windowLinearAttentionSync: SyncLayer<
  Dtypes,
  WindowLinearAttentionInputs,
  WindowLinearAttentionOptions,
  WindowLinearAttentionResult
> = synchronous('windowLinearAttention');

/**
 * Gradients of {@link windowLinearAttention}, from dO `[B,T,H,V]` and the gradients of the final state. Weights are made
 * again chunk by chunk. Where several scores of a window are the largest, they share in the gradient of c_t equally.
 * @throws (rejects) as {@link windowLinearAttention}
 */
export const windowLinearAttentionBackward: AsyncLayerBackward<
  Dtypes,
  WindowLinearAttentionBackwardInputs,
  WindowLinearAttentionBackwardOptions,
  WindowLinearAttentionBackwardResult
> = asynchronous('windowLinearAttentionBackward');

/**
 * {@link windowLinearAttentionBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const windowLinearAttentionBackwardSync: SyncLayerBackward<
  Dtypes,
  WindowLinearAttentionBackwardInputs,
  WindowLinearAttentionBackwardOptions,
  WindowLinearAttentionBackwardResult
> = synchronous('windowLinearAttentionBackward');

/** Dimensions of what {@link createWindowLinearCache} makes. */
export interface WindowLinearCacheShape {
  /** Slots, each for one sequence. */
  batch: number;
  /** HKV: heads of keys and values. */
  kvHeads: number;
  /** HF: heads of mapped keys; default HKV. */
  featureHeads?: number;
  /** K: width of a key. */
  keyDim: number;
  /** V: width of a value, 1 to 512. */
  valueDim: number;
  /** F: features, 1 to 512. */
  featureDim: number;
  /** w, as in calls; default 64. */
  window?: number;
  /** As in calls; default false. */
  terraced?: boolean;
  /** What the tokens of the windows are stored as; default `'f32'`. */
  dtype?: FloatDType;
}

/** The `state` and `cache` of a decode by {@link windowLinearAttention}; both are to be disposed, or collected. */
export interface WindowLinearCache {
  state: RecurrentState;
  cache: KvCache;
}

/**
 * What a decode by {@link windowLinearAttention} needs: an empty state for what has left the windows, and an empty ring for
 * what is in them. `{...token, ...createWindowLinearCache(shape)}` is a call's inputs. A sequence starts anew in a slot
 * where both are emptied: `cache.reset(slot)`, and zeros copied into the state.
 * @throws TypeError or RangeError as {@link createState} and {@link createKvCache}
 */
export function createWindowLinearCache(shape: WindowLinearCacheShape): WindowLinearCache {
  const name = 'createWindowLinearCache';
  if (typeof shape !== 'object' || shape === null)
    throw typeError(name, `shape: expected {${FIELDS.join(', ')}}, got ${show(shape)}`);
  for (const key in shape)
    if (!FIELDS.includes(key)) throw unknownKey(name, 'an input', key, FIELDS);
  const { batch, kvHeads, featureHeads = kvHeads, keyDim, valueDim, featureDim } = shape;
  const { window = 64, terraced = false, dtype } = shape;
  const sizes = { batch, kvHeads, featureHeads, keyDim, valueDim, featureDim, window };
  for (const [field, value] of Object.entries(sizes)) {
    if (typeof value !== 'number')
      throw typeError(name, `${field}: expected an integer, got ${show(value)}`);
    if (!Number.isInteger(value) || value < 1 || value > 1 << 30)
      throw rangeError(name, `${field}: expected an integer from 1, got ${value}`);
  }
  for (const [field, value] of Object.entries({ keyDim, valueDim }))
    if (value > 1024)
      throw rangeError(name, `${field}: expected an integer from 1 to 1024, got ${value}`);
  if (featureHeads % kvHeads !== 0)
    throw rangeError(
      name,
      `featureHeads: expected a multiple of kvHeads = ${kvHeads}, got ${featureHeads}`,
    );
  if (typeof terraced !== 'boolean')
    throw typeError(name, `terraced: expected true or false, got ${show(terraced)}`);
  const group = featureHeads / kvHeads;
  const reach = terraced ? 2 * window - 1 : window - 1;
  const heads = { valueHeads: featureHeads, keyHeads: featureHeads };
  return underName(name, () => {
    const state = createState({ batch, ...heads, keyDim: featureDim, valueDim });
    try {
      const width = keyDim + group * featureDim;
      const ring = { window: Math.max(1, reach), dtype };
      return { state, cache: createKvCache({ batch, kvHeads, keyDim: width, valueDim, ...ring }) };
    } catch (error) {
      state.dispose();
      throw error;
    }
  });
}

const FIELDS = [
  'batch',
  'kvHeads',
  'featureHeads',
  'keyDim',
  'valueDim',
  'featureDim',
  'window',
  'terraced',
  'dtype',
];
