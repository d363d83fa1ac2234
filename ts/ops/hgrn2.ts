import { asynchronous, synchronous } from '../marshal';
import type { RecurrentState } from '../state';
import type { AsyncOperation, ResultTensor, SyncOperation, Tensor } from '../types';
import type { BackwardOptions, ForwardOptions, ForwardResult, OutputGradients } from './recurrence';

/** Inputs of {@link hgrn2}. */
export interface Hgrn2Inputs {
  /** `[B,T,H,K]` */
  q: Tensor;
  /** `[B,T,H,V]` */
  v: Tensor;
  /** `[B,T,H,K]`: natural log of the forget gate, <= 0. */
  g: Tensor;
  /** `[B,H,K,V]`; not together with state */
  initialState?: Tensor;
  /** Read and advanced in place; see {@link createState}. */
  state?: RecurrentState;
}

/** Options of {@link hgrn2}. */
export type Hgrn2Options = ForwardOptions;

/** Inputs of {@link hgrn2Backward}. */
export interface Hgrn2BackwardInputs extends OutputGradients {
  /** As in the forward. */
  q: Tensor;
  /** As in the forward. */
  v: Tensor;
  /** As in the forward. */
  g: Tensor;
}

/** Options of {@link hgrn2Backward}. */
export type Hgrn2BackwardOptions = BackwardOptions<'dq' | 'dv' | 'dg' | 'dInitialState'>;

/** What {@link hgrn2Backward} returns. */
export interface Hgrn2BackwardResult {
  /** `[B,T,H,K]` */
  dq: ResultTensor;
  /** `[B,T,H,V]` */
  dv: ResultTensor;
  /** `[B,T,H,K]`, through the decay and through the key */
  dg: ResultTensor;
  /** `[B,H,K,V]`, when initialState was given */
  dInitialState?: ResultTensor;
}

/**
 * HGRN2: gated linear attention whose key is what the forget gate leaves open, `k = 1 - exp(g) = -expm1(g)`.
 *
 *     S <- diag(exp(g_t)) S + k_t v_t^T;   o_t = scale * S^T q_t
 *
 * All float32: q `[B,T,H,K]`, v `[B,T,H,V]`, g `[B,T,H,K]` -> o `[B,T,H,V]`.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Qin et al., HGRN2, 2024 (arXiv:2404.07904)
 */
export const hgrn2: AsyncOperation<Hgrn2Inputs, Hgrn2Options, ForwardResult> =
  asynchronous('hgrn2');

/**
 * {@link hgrn2} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const hgrn2Sync: SyncOperation<Hgrn2Inputs, Hgrn2Options, ForwardResult> =
  synchronous('hgrn2');

/**
 * Gradients of {@link hgrn2} from dO `[B,T,H,V]` and dFinalState `[B,H,K,V]`: dq, dv, dg, which includes the key's
 * share, and dInitialState where initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const hgrn2Backward: AsyncOperation<
  Hgrn2BackwardInputs,
  Hgrn2BackwardOptions,
  Hgrn2BackwardResult
> = asynchronous('hgrn2Backward');

/**
 * {@link hgrn2Backward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const hgrn2BackwardSync: SyncOperation<
  Hgrn2BackwardInputs,
  Hgrn2BackwardOptions,
  Hgrn2BackwardResult
> = synchronous('hgrn2Backward');
