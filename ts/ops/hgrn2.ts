import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, ResultTensor, Tensor } from '../types';
import type {
  AsyncBackward,
  AsyncForward,
  ForwardOptions,
  ForwardResult,
  GradientOption,
  GridOptions,
  OutputGradients,
  StartingState,
  SyncBackward,
  SyncForward,
} from './grid';

/** Queries, values and forget gates of {@link hgrn2}; the keys come from the gates. */
export interface QueryValueGate {
  /** `[B,T,H,K]` */
  q: Tensor;
  /** `[B,T,H,V]`, in the dtype of q */
  v: Tensor;
  /** `[B,T,H,K]`, float32 or in the dtype of q: natural log of the forget gate, <= 0. */
  g: Tensor;
}

/** Inputs of {@link hgrn2}. */
export type Hgrn2Inputs = QueryValueGate & StartingState;

/** Options of {@link hgrn2}. */
export type Hgrn2Options = ForwardOptions;

/** Inputs of {@link hgrn2Backward}. */
export type Hgrn2BackwardInputs = QueryValueGate & OutputGradients;

/** Options of {@link hgrn2Backward}. */
export interface Hgrn2BackwardOptions
  extends GridOptions,
    GradientOption,
    CallOptions<'dq' | 'dv' | 'dg' | 'dInitialState'> {}

/** What {@link hgrn2Backward} returns. */
export interface Hgrn2BackwardResult {
  /** `[B,T,H,K]` */
  dq: ResultTensor;
  /** `[B,T,H,V]` */
  dv: ResultTensor;
  /** `[B,T,H,K]`, through the decay and through the key */
  dg: ResultTensor;
  /** `[N,H,K,V]`, float32, when initialState was given */
  dInitialState?: ResultTensor;
}

/**
 * HGRN2: gated linear attention whose key is what the forget gate leaves open, `k = 1 - exp(g) = -expm1(g)`.
 *
 *     S <- diag(exp(g_t)) S + k_t v_t^T;   o_t = scale * S^T q_t
 *
 * Shapes: q `[B,T,H,K]`, v `[B,T,H,V]`, g `[B,T,H,K]` -> o `[B,T,H,V]`. q, v and o have one dtype, float32, bf16 or f16;
 * g has that one or float32.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Qin et al., HGRN2, 2024 (arXiv:2404.07904)
 */
export const hgrn2: AsyncForward<Hgrn2Inputs, Hgrn2Options, ForwardResult> = asynchronous('hgrn2');

/**
 * {@link hgrn2} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const hgrn2Sync: SyncForward<Hgrn2Inputs, Hgrn2Options, ForwardResult> =
  synchronous('hgrn2');

/**
 * Gradients of {@link hgrn2} from dO `[B,T,H,V]` and dFinalState `[N,H,K,V]`: dq, dv, dg, which includes the key's
 * share, and dInitialState where initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const hgrn2Backward: AsyncBackward<
  Hgrn2BackwardInputs,
  Hgrn2BackwardOptions,
  Hgrn2BackwardResult
> = asynchronous('hgrn2Backward');

/**
 * {@link hgrn2Backward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const hgrn2BackwardSync: SyncBackward<
  Hgrn2BackwardInputs,
  Hgrn2BackwardOptions,
  Hgrn2BackwardResult
> = synchronous('hgrn2Backward');
