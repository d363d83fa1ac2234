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
  lead: 'r';
  same: 'k' | 'v' | 'kappa' | 'a' | 'o' | 'dO' | 'dr' | 'dk' | 'dv' | 'dkappa' | 'da';
  either: 'w' | 'dw';
};

/** What {@link rwkv7} and its backward take. B batch, T tokens, H heads, K and V 1 to 512. */
export interface Rwkv7Parameters {
  /** `[B,T,H,K]`: receptance */
  r: Tensor;
  /** `[B,T,H,K]`, float32 or in the dtype of r: decay before its activation, `exp(-exp(-0.5) sigmoid(w))` */
  w: Tensor;
  /** `[B,T,H,K]`, in the dtype of r: replacement key */
  k: Tensor;
  /** `[B,T,H,V]`, in the dtype of r */
  v: Tensor;
  /** `[B,T,H,K]`, in the dtype of r: removal key, of any length */
  kappa: Tensor;
  /** `[B,T,H,K]`, in the dtype of r: in-context learning rate, after its sigmoid */
  a: Tensor;
}

/** Inputs of {@link rwkv7}; states are `[N,H,K,V]`, N = B or the number of sequences that `cuSeqlens` packs. */
export type Rwkv7Inputs = Rwkv7Parameters & StartingState;

/** Options of {@link rwkv7}; `scale` defaults to 1. */
export interface Rwkv7Options extends ScaleOption, ScanOptions {}

/** Inputs of {@link rwkv7Backward}. */
export type Rwkv7BackwardInputs = Rwkv7Parameters & ScanGradients;

/** Options of {@link rwkv7Backward}. */
export interface Rwkv7BackwardOptions
  extends ScaleOption,
    ScanBackwardOptions<'dr' | 'dw' | 'dk' | 'dv' | 'dkappa' | 'da'> {}

/** What {@link rwkv7Backward} returns. */
export interface Rwkv7BackwardResult {
  /** `[B,T,H,K]` */
  dr: ResultTensor;
  /** `[B,T,H,K]`, of w as given */
  dw: ResultTensor;
  /** `[B,T,H,K]` */
  dk: ResultTensor;
  /** `[B,T,H,V]` */
  dv: ResultTensor;
  /** `[B,T,H,K]`, through the norm */
  dkappa: ResultTensor;
  /** `[B,T,H,K]` */
  da: ResultTensor;
  /** `[N,H,K,V]`, float32, when initialState was given */
  dInitialState?: ResultTensor;
}

/**
 * RWKV-7 (Goose): {@link dplr} in the parameters of its paper. The removal key kappa is normalised inside, a says how much
 * of what it finds is taken out.
 *
 *     w'_t = exp(-exp(-0.5) sigmoid(w_t));   n_t = kappa_t / max(|kappa_t|, 1e-12)
 *     S <- diag(w'_t) S - (a_t n_t) (n_t^T S)^T + k_t v_t^T;   o_t = scale * S^T r_t
 *
 * Shapes: r, w, k, kappa, a `[B,T,H,K]`, v `[B,T,H,V]` -> o `[B,T,H,V]`. All of one dtype, float32, bf16 or f16, but for w,
 * which may be float32; the state and all sums are float32. The bonus `(r . (rho k)) v` that the paper adds after its
 * group norm is the layer's.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or
 * value, bad offsets or indices; Error for a disposed, busy or poisoned state; `signal.reason` after an abort
 * @see Peng et al., RWKV-7, 2025 (arXiv:2503.14456)
 */
export const rwkv7: AsyncLayer<Dtypes, Rwkv7Inputs, Rwkv7Options, ScanResult> =
  asynchronous('rwkv7');

/**
 * {@link rwkv7} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const rwkv7Sync: SyncLayer<Dtypes, Rwkv7Inputs, Rwkv7Options, ScanResult> =
  synchronous('rwkv7');

/**
 * Gradients of {@link rwkv7} from dO `[B,T,H,V]` and dFinalState `[N,H,K,V]`; the forward is computed again, with memory
 * for one state in sixteen tokens.
 * @throws (rejects) as {@link rwkv7}
 */
export const rwkv7Backward: AsyncLayerBackward<
  Dtypes,
  Rwkv7BackwardInputs,
  Rwkv7BackwardOptions,
  Rwkv7BackwardResult
> = asynchronous('rwkv7Backward');

/**
 * {@link rwkv7Backward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const rwkv7BackwardSync: SyncLayerBackward<
  Dtypes,
  Rwkv7BackwardInputs,
  Rwkv7BackwardOptions,
  Rwkv7BackwardResult
> = synchronous('rwkv7Backward');
