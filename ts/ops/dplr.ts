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
  same: 'k' | 'v' | 'a' | 'b' | 'o' | 'dO' | 'dq' | 'dk' | 'dv' | 'da' | 'db';
  either: 'g' | 'dg';
};

/** What {@link dplr} and its backward take. B batch, T tokens, H heads, K and V 1 to 512. */
export interface DplrParameters {
  /** `[B,T,H,K]` */
  q: Tensor;
  /** `[B,T,H,K]`, in the dtype of q */
  k: Tensor;
  /** `[B,T,H,V]`, in the dtype of q */
  v: Tensor;
  /** `[B,T,H,K]`, float32 or in the dtype of q: natural log of the decay of each row of the state. Below -104 it resets the row. */
  g: Tensor;
  /** `[B,T,H,K]`, in the dtype of q: what the state is read with, before it decays */
  a: Tensor;
  /** `[B,T,H,K]`, in the dtype of q: where that is written */
  b: Tensor;
}

/** Inputs of {@link dplr}; states are `[N,H,K,V]`, N = B or the number of sequences that `cuSeqlens` packs. */
export type DplrInputs = DplrParameters & StartingState;

/** Options of {@link dplr}; `scale` defaults to `K ** -0.5`. */
export interface DplrOptions extends ScaleOption, ScanOptions {}

/** Inputs of {@link dplrBackward}. */
export type DplrBackwardInputs = DplrParameters & ScanGradients;

/** Options of {@link dplrBackward}. */
export interface DplrBackwardOptions
  extends ScaleOption,
    ScanBackwardOptions<'dq' | 'dk' | 'dv' | 'dg' | 'da' | 'db'> {}

/** What {@link dplrBackward} returns. */
export interface DplrBackwardResult {
  /** `[B,T,H,K]` */
  dq: ResultTensor;
  /** `[B,T,H,K]` */
  dk: ResultTensor;
  /** `[B,T,H,V]` */
  dv: ResultTensor;
  /** `[B,T,H,K]`; zero where the gate reset the state */
  dg: ResultTensor;
  /** `[B,T,H,K]` */
  da: ResultTensor;
  /** `[B,T,H,K]` */
  db: ResultTensor;
  /** `[N,H,K,V]`, float32, when initialState was given */
  dInitialState?: ResultTensor;
}

/**
 * Diagonal plus low rank: a decay per channel, and a rank-one update of the state by what it holds itself.
 *
 *     S <- diag(exp(g_t)) S + b_t (a_t^T S)^T + k_t v_t^T;   o_t = scale * S^T q_t
 *
 * a reads the state as the token before left it. With a = -k, b = beta k and g = 0 it is the delta rule.
 *
 * Shapes: q, k, g, a, b `[B,T,H,K]`, v `[B,T,H,V]` -> o `[B,T,H,V]`. All of one dtype, float32, bf16 or f16, but for g,
 * which may be float32; the state and all sums are float32.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or
 * value, bad offsets or indices; Error for a disposed, busy or poisoned state; `signal.reason` after an abort
 * @see Peng et al., RWKV-7, 2025 (arXiv:2503.14456), of which it is the general form; {@link rwkv7} has its parameters
 *
 * @example
 * const { o, finalState } = await dplr({ q, k, v, g, a, b }, { outputFinalState: true });
 */
export const dplr: AsyncLayer<Dtypes, DplrInputs, DplrOptions, ScanResult> = asynchronous('dplr');

/**
 * {@link dplr} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const dplrSync: SyncLayer<Dtypes, DplrInputs, DplrOptions, ScanResult> = synchronous('dplr');

/**
 * Gradients of {@link dplr} from dO `[B,T,H,V]` and dFinalState `[N,H,K,V]`; the forward is computed again, with memory
 * for one state in sixteen tokens.
 * @throws (rejects) as {@link dplr}
 */
export const dplrBackward: AsyncLayerBackward<
  Dtypes,
  DplrBackwardInputs,
  DplrBackwardOptions,
  DplrBackwardResult
> = asynchronous('dplrBackward');

/**
 * {@link dplrBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const dplrBackwardSync: SyncLayerBackward<
  Dtypes,
  DplrBackwardInputs,
  DplrBackwardOptions,
  DplrBackwardResult
> = synchronous('dplrBackward');
