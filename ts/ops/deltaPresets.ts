// The papers that are delta cells of the grid: rows of cpp/ops/presets.cpp with their types.
import { asynchronous, synchronous } from '../marshal';
import type { AsyncOperation, SyncOperation } from '../types';
import type {
  BackwardOptions,
  BackwardResult,
  ChannelGate,
  ForwardOptions,
  ForwardResult,
  GateGradient,
  HouseholderOption,
  OutputGradients,
  QueryKeyValue,
  StartingState,
  StrengthGradient,
  TokenGate,
  WriteStrength,
} from './recurrence';

/** Inputs of {@link deltaNet}. */
export type DeltaNetInputs = QueryKeyValue & WriteStrength & StartingState;

/** Options of {@link deltaNet}. */
export type DeltaNetOptions = ForwardOptions;

/** Inputs of {@link deltaNetBackward}. */
export type DeltaNetBackwardInputs = QueryKeyValue & WriteStrength & OutputGradients;

/** Options of {@link deltaNetBackward}: those of the forward that shape the problem. */
export type DeltaNetBackwardOptions = BackwardOptions<
  'dq' | 'dk' | 'dv' | 'dbeta' | 'dInitialState'
>;

/** What {@link deltaNetBackward} returns. */
export type DeltaNetBackwardResult = BackwardResult & StrengthGradient;

/**
 * The delta rule: every write replaces what the state held under its key.
 *
 *     S <- (I - beta_t k_t k_t^T) S + beta_t k_t v_t^T;   o_t = scale * S^T q_t
 *
 * All float32: q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]`, beta `[B,T,HV]` -> o `[B,T,HV,V]`.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Yang et al., Parallelizing Linear Transformers with the Delta Rule, 2024 (arXiv:2406.06484)
 */
export const deltaNet: AsyncOperation<DeltaNetInputs, DeltaNetOptions, ForwardResult> =
  asynchronous('deltaNet');

/**
 * {@link deltaNet} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const deltaNetSync: SyncOperation<DeltaNetInputs, DeltaNetOptions, ForwardResult> =
  synchronous('deltaNet');

/**
 * Gradients of {@link deltaNet} from dO `[B,T,HV,V]` and dFinalState `[B,HV,K,V]`: dq `[B,T,H,K]`, dk `[B,T,H,K]`, dv
 * `[B,T,HV,V]`, dbeta like beta, dInitialState `[B,HV,K,V]` where initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const deltaNetBackward: AsyncOperation<
  DeltaNetBackwardInputs,
  DeltaNetBackwardOptions,
  DeltaNetBackwardResult
> = asynchronous('deltaNetBackward');

/**
 * {@link deltaNetBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const deltaNetBackwardSync: SyncOperation<
  DeltaNetBackwardInputs,
  DeltaNetBackwardOptions,
  DeltaNetBackwardResult
> = synchronous('deltaNetBackward');

/** Inputs of {@link gatedDeltaNet}. */
export type GatedDeltaNetInputs = QueryKeyValue & TokenGate & WriteStrength & StartingState;

/** Options of {@link gatedDeltaNet}. */
export type GatedDeltaNetOptions = ForwardOptions;

/** Inputs of {@link gatedDeltaNetBackward}. */
export type GatedDeltaNetBackwardInputs = QueryKeyValue &
  TokenGate &
  WriteStrength &
  OutputGradients;

/** Options of {@link gatedDeltaNetBackward}: those of the forward that shape the problem. */
export type GatedDeltaNetBackwardOptions = BackwardOptions<
  'dq' | 'dk' | 'dv' | 'dg' | 'dbeta' | 'dInitialState'
>;

/** What {@link gatedDeltaNetBackward} returns. */
export type GatedDeltaNetBackwardResult = BackwardResult & GateGradient & StrengthGradient;

/**
 * The delta rule with one decay per token and value head.
 *
 *     S <- (I - beta_t k_t k_t^T) exp(g_t) S + beta_t k_t v_t^T;   o_t = scale * S^T q_t
 *
 * All float32: q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]`, g `[B,T,HV]`, beta `[B,T,HV]` -> o `[B,T,HV,V]`.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Yang et al., Gated Delta Networks, 2024 (arXiv:2412.06464)
 */
export const gatedDeltaNet: AsyncOperation<
  GatedDeltaNetInputs,
  GatedDeltaNetOptions,
  ForwardResult
> = asynchronous('gatedDeltaNet');

/**
 * {@link gatedDeltaNet} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const gatedDeltaNetSync: SyncOperation<
  GatedDeltaNetInputs,
  GatedDeltaNetOptions,
  ForwardResult
> = synchronous('gatedDeltaNet');

/**
 * Gradients of {@link gatedDeltaNet} from dO `[B,T,HV,V]` and dFinalState `[B,HV,K,V]`: dq `[B,T,H,K]`, dk
 * `[B,T,H,K]`, dv `[B,T,HV,V]`, dg like g, dbeta like beta, dInitialState `[B,HV,K,V]` where initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const gatedDeltaNetBackward: AsyncOperation<
  GatedDeltaNetBackwardInputs,
  GatedDeltaNetBackwardOptions,
  GatedDeltaNetBackwardResult
> = asynchronous('gatedDeltaNetBackward');

/**
 * {@link gatedDeltaNetBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const gatedDeltaNetBackwardSync: SyncOperation<
  GatedDeltaNetBackwardInputs,
  GatedDeltaNetBackwardOptions,
  GatedDeltaNetBackwardResult
> = synchronous('gatedDeltaNetBackward');

/** Inputs of {@link kda}. */
export type KdaInputs = QueryKeyValue & ChannelGate & WriteStrength & StartingState;

/** Options of {@link kda}. */
export type KdaOptions = ForwardOptions;

/** Inputs of {@link kdaBackward}. */
export type KdaBackwardInputs = QueryKeyValue & ChannelGate & WriteStrength & OutputGradients;

/** Options of {@link kdaBackward}: those of the forward that shape the problem. */
export type KdaBackwardOptions = BackwardOptions<
  'dq' | 'dk' | 'dv' | 'dg' | 'dbeta' | 'dInitialState'
>;

/** What {@link kdaBackward} returns. */
export type KdaBackwardResult = BackwardResult & GateGradient & StrengthGradient;

/**
 * Kimi Delta Attention: the delta rule with one decay per token, value head and key channel.
 *
 *     S <- (I - beta_t k_t k_t^T) diag(exp(g_t)) S + beta_t k_t v_t^T;   o_t = scale * S^T q_t
 *
 * All float32: q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]`, g `[B,T,HV,K]`, beta `[B,T,HV]` -> o `[B,T,HV,V]`.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Kimi Team, Kimi Linear, 2025 (arXiv:2510.26692)
 */
export const kda: AsyncOperation<KdaInputs, KdaOptions, ForwardResult> = asynchronous('kda');

/**
 * {@link kda} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const kdaSync: SyncOperation<KdaInputs, KdaOptions, ForwardResult> = synchronous('kda');

/**
 * Gradients of {@link kda} from dO `[B,T,HV,V]` and dFinalState `[B,HV,K,V]`: dq `[B,T,H,K]`, dk `[B,T,H,K]`, dv
 * `[B,T,HV,V]`, dg like g, dbeta like beta, dInitialState `[B,HV,K,V]` where initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const kdaBackward: AsyncOperation<KdaBackwardInputs, KdaBackwardOptions, KdaBackwardResult> =
  asynchronous('kdaBackward');

/**
 * {@link kdaBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const kdaBackwardSync: SyncOperation<
  KdaBackwardInputs,
  KdaBackwardOptions,
  KdaBackwardResult
> = synchronous('kdaBackward');

/** Inputs of {@link deltaProduct}. */
export type DeltaProductInputs = QueryKeyValue & WriteStrength & StartingState;

/** Options of {@link deltaProduct}. */
export type DeltaProductOptions = ForwardOptions & HouseholderOption;

/** Inputs of {@link deltaProductBackward}. */
export type DeltaProductBackwardInputs = QueryKeyValue & WriteStrength & OutputGradients;

/** Options of {@link deltaProductBackward}: those of the forward that shape the problem. */
export type DeltaProductBackwardOptions = BackwardOptions<
  'dq' | 'dk' | 'dv' | 'dbeta' | 'dInitialState'
> &
  HouseholderOption;

/** What {@link deltaProductBackward} returns. */
export type DeltaProductBackwardResult = BackwardResult & StrengthGradient;

/**
 * n = numHouseholder steps of the delta rule per token: the state is multiplied by a product of n Householder-like
 * matrices.
 *
 *     S <- (I - beta_tj k_tj k_tj^T) S + beta_tj k_tj v_tj^T  for j = 1..n;   o_t = scale * S^T q_t
 *
 * All float32: q `[B,T,H,K]`, k `[B,T*n,H,K]`, v `[B,T*n,HV,V]`, beta `[B,T*n,HV]` -> o `[B,T,HV,V]`.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Siems et al., DeltaProduct, 2025 (arXiv:2502.10297)
 */
export const deltaProduct: AsyncOperation<DeltaProductInputs, DeltaProductOptions, ForwardResult> =
  asynchronous('deltaProduct');

/**
 * {@link deltaProduct} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const deltaProductSync: SyncOperation<
  DeltaProductInputs,
  DeltaProductOptions,
  ForwardResult
> = synchronous('deltaProduct');

/**
 * Gradients of {@link deltaProduct} from dO `[B,T,HV,V]` and dFinalState `[B,HV,K,V]`: dq `[B,T,H,K]`, dk
 * `[B,T*n,H,K]`, dv `[B,T*n,HV,V]`, dbeta like beta, dInitialState `[B,HV,K,V]` where initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const deltaProductBackward: AsyncOperation<
  DeltaProductBackwardInputs,
  DeltaProductBackwardOptions,
  DeltaProductBackwardResult
> = asynchronous('deltaProductBackward');

/**
 * {@link deltaProductBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const deltaProductBackwardSync: SyncOperation<
  DeltaProductBackwardInputs,
  DeltaProductBackwardOptions,
  DeltaProductBackwardResult
> = synchronous('deltaProductBackward');

/** Inputs of {@link gatedDeltaProduct}. */
export type GatedDeltaProductInputs = QueryKeyValue & TokenGate & WriteStrength & StartingState;

/** Options of {@link gatedDeltaProduct}. */
export type GatedDeltaProductOptions = ForwardOptions & HouseholderOption;

/** Inputs of {@link gatedDeltaProductBackward}. */
export type GatedDeltaProductBackwardInputs = QueryKeyValue &
  TokenGate &
  WriteStrength &
  OutputGradients;

/** Options of {@link gatedDeltaProductBackward}: those of the forward that shape the problem. */
export type GatedDeltaProductBackwardOptions = BackwardOptions<
  'dq' | 'dk' | 'dv' | 'dg' | 'dbeta' | 'dInitialState'
> &
  HouseholderOption;

/** What {@link gatedDeltaProductBackward} returns. */
export type GatedDeltaProductBackwardResult = BackwardResult & GateGradient & StrengthGradient;

/**
 * n = numHouseholder steps of the delta rule per token after one decay per token and value head.
 *
 *     S <- exp(g_t) S, then S <- (I - beta_tj k_tj k_tj^T) S + beta_tj k_tj v_tj^T  for j = 1..n;   o_t = scale * S^T q_t
 *
 * All float32: q `[B,T,H,K]`, k `[B,T*n,H,K]`, v `[B,T*n,HV,V]`, g `[B,T,HV]`, beta `[B,T*n,HV]` -> o `[B,T,HV,V]`.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Siems et al., DeltaProduct, 2025 (arXiv:2502.10297)
 */
export const gatedDeltaProduct: AsyncOperation<
  GatedDeltaProductInputs,
  GatedDeltaProductOptions,
  ForwardResult
> = asynchronous('gatedDeltaProduct');

/**
 * {@link gatedDeltaProduct} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const gatedDeltaProductSync: SyncOperation<
  GatedDeltaProductInputs,
  GatedDeltaProductOptions,
  ForwardResult
> = synchronous('gatedDeltaProduct');

/**
 * Gradients of {@link gatedDeltaProduct} from dO `[B,T,HV,V]` and dFinalState `[B,HV,K,V]`: dq `[B,T,H,K]`, dk
 * `[B,T*n,H,K]`, dv `[B,T*n,HV,V]`, dg like g, dbeta like beta, dInitialState `[B,HV,K,V]` where initialState was
 * given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const gatedDeltaProductBackward: AsyncOperation<
  GatedDeltaProductBackwardInputs,
  GatedDeltaProductBackwardOptions,
  GatedDeltaProductBackwardResult
> = asynchronous('gatedDeltaProductBackward');

/**
 * {@link gatedDeltaProductBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const gatedDeltaProductBackwardSync: SyncOperation<
  GatedDeltaProductBackwardInputs,
  GatedDeltaProductBackwardOptions,
  GatedDeltaProductBackwardResult
> = synchronous('gatedDeltaProductBackward');
