import { asynchronous, synchronous } from '../marshal';
import type { ResultTensor, Tensor } from '../types';
import type { StartingState } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';
import type {
  ScaleOption,
  ScanBackwardOptions,
  ScanGradients,
  ScanOptions,
  ScanResult,
} from './scan';

type Dtypes = {
  lead: 'q';
  same: 'k' | 'v' | 'o' | 'dO' | 'dq' | 'dk' | 'dv';
  either: 'g' | 'u' | 'dg' | 'du';
};

/** What {@link rwkv6} and its backward take. B batch, T tokens, H heads, K and V 1 to 512. */
export interface Rwkv6Parameters {
  /** `[B,T,H,K]`: receptance */
  q: Tensor;
  /** `[B,T,H,K]`, in the dtype of q */
  k: Tensor;
  /** `[B,T,H,V]`, in the dtype of q */
  v: Tensor;
  /** `[B,T,H,K]`, float32 or in the dtype of q: natural log of the decay of each row of the state. Below -104 it resets the row. */
  g: Tensor;
  /** `[H,K]`, float32 or in the dtype of q: bonus of the current token */
  u: Tensor;
}

/** Inputs of {@link rwkv6}; states are `[N,H,K,V]`, N = B or the number of sequences that `cuSeqlens` packs. */
export type Rwkv6Inputs = Rwkv6Parameters & StartingState;

/** Options of {@link rwkv6}; `scale` defaults to 1. */
export interface Rwkv6Options extends ScaleOption, ScanOptions {}

/** Inputs of {@link rwkv6Backward}. */
export type Rwkv6BackwardInputs = Rwkv6Parameters & ScanGradients;

/** Options of {@link rwkv6Backward}. */
export interface Rwkv6BackwardOptions
  extends ScaleOption,
    ScanBackwardOptions<'dq' | 'dk' | 'dv' | 'dg' | 'du'> {}

/** What {@link rwkv6Backward} returns. */
export interface Rwkv6BackwardResult {
  /** `[B,T,H,K]` */
  dq: ResultTensor;
  /** `[B,T,H,K]` */
  dk: ResultTensor;
  /** `[B,T,H,V]` */
  dv: ResultTensor;
  /** `[B,T,H,K]`; zero where the gate reset the state */
  dg: ResultTensor;
  /** `[H,K]`, summed over batch and tokens */
  du: ResultTensor;
  /** `[N,H,K,V]`, float32, when initialState was given */
  dInitialState?: ResultTensor;
}

/**
 * RWKV-6 (Finch): a decay per channel that depends on the data, and an output that reads the state before the token is
 * written, with the token itself under a bonus.
 *
 *     o_t = scale * (S + diag(u) k_t v_t^T)^T q_t;   S <- diag(exp(g_t)) S + k_t v_t^T
 *
 * Shapes: q, k, g `[B,T,H,K]`, v `[B,T,H,V]`, u `[H,K]` -> o `[B,T,H,V]`. q, k, v and o have one dtype, float32, bf16 or
 * f16; g and u have it too or are float32; the state and all sums are float32. The paper's decay is `g = -exp(w)`.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or
 * value, bad offsets or indices; Error for a disposed, busy or poisoned state; `signal.reason` after an abort
 * @see Peng et al., Eagle and Finch, 2024 (arXiv:2404.05892)
 */
export const rwkv6: AsyncLayer<Dtypes, Rwkv6Inputs, Rwkv6Options, ScanResult> =
  asynchronous('rwkv6');

/**
 * {@link rwkv6} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const rwkv6Sync: SyncLayer<Dtypes, Rwkv6Inputs, Rwkv6Options, ScanResult> =
  synchronous('rwkv6');

/**
 * Gradients of {@link rwkv6} from dO `[B,T,H,V]` and dFinalState `[N,H,K,V]`; the forward is computed again, with memory
 * for one state in sixteen tokens.
 * @throws (rejects) as {@link rwkv6}
 */
export const rwkv6Backward: AsyncLayerBackward<
  Dtypes,
  Rwkv6BackwardInputs,
  Rwkv6BackwardOptions,
  Rwkv6BackwardResult
> = asynchronous('rwkv6Backward');

/**
 * {@link rwkv6Backward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const rwkv6BackwardSync: SyncLayerBackward<
  Dtypes,
  Rwkv6BackwardInputs,
  Rwkv6BackwardOptions,
  Rwkv6BackwardResult
> = synchronous('rwkv6Backward');
