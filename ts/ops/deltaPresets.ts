// The papers that are delta cells of the grid: rows of cpp/ops/presets.cpp with their types.
import { asynchronous, synchronous } from '../marshal';
import type {
  AsyncBackward,
  AsyncForward,
  BackwardOptions,
  BackwardResult,
  ChannelGate,
  ForwardOptions,
  ForwardResult,
  GateGradient,
  GateOption,
  HouseholderOption,
  OutputGradients,
  QueryKeyNormOption,
  QueryKeyValue,
  StartingState,
  StrengthGradient,
  StrengthOption,
  SyncBackward,
  SyncForward,
  TokenGate,
  WriteStrength,
} from './grid';

/** Inputs of {@link deltaNet}. */
export type DeltaNetInputs = QueryKeyValue & WriteStrength & StartingState;

/** Options of {@link deltaNet}. */
export type DeltaNetOptions = ForwardOptions & QueryKeyNormOption & StrengthOption;

/** Inputs of {@link deltaNetBackward}. */
export type DeltaNetBackwardInputs = QueryKeyValue & WriteStrength & OutputGradients;

/** Options of {@link deltaNetBackward}: those of the forward that shape the problem. */
export type DeltaNetBackwardOptions = BackwardOptions<'dbeta'> &
  QueryKeyNormOption &
  StrengthOption;

/** What {@link deltaNetBackward} returns. */
export type DeltaNetBackwardResult = BackwardResult & StrengthGradient;

/**
 * The delta rule: every write replaces what the state held under its key.
 *
 *     S <- (I - beta_t k_t k_t^T) S + beta_t k_t v_t^T;   o_t = scale * S^T q_t
 *
 * Shapes: q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]`, beta `[B,T,HV]` -> o `[B,T,HV,V]`. Dtypes as in
 * {@link recurrence}.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Yang et al., Parallelizing Linear Transformers with the Delta Rule, 2024 (arXiv:2406.06484)
 */
export const deltaNet: AsyncForward<DeltaNetInputs, DeltaNetOptions, ForwardResult> =
  asynchronous('deltaNet');

/**
 * {@link deltaNet} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const deltaNetSync: SyncForward<DeltaNetInputs, DeltaNetOptions, ForwardResult> =
  synchronous('deltaNet');

/**
 * Gradients of {@link deltaNet} from dO `[B,T,HV,V]` and dFinalState `[N,HV,K,V]`: dq `[B,T,H,K]`, dk `[B,T,H,K]`, dv
 * `[B,T,HV,V]`, dbeta like beta, dInitialState `[N,HV,K,V]` where initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const deltaNetBackward: AsyncBackward<
  DeltaNetBackwardInputs,
  DeltaNetBackwardOptions,
  DeltaNetBackwardResult
> = asynchronous('deltaNetBackward');

/**
 * {@link deltaNetBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const deltaNetBackwardSync: SyncBackward<
  DeltaNetBackwardInputs,
  DeltaNetBackwardOptions,
  DeltaNetBackwardResult
> = synchronous('deltaNetBackward');

/** Inputs of {@link gatedDeltaNet}. */
export type GatedDeltaNetInputs = QueryKeyValue & TokenGate & WriteStrength & StartingState;

/** Options of {@link gatedDeltaNet}. */
export type GatedDeltaNetOptions = ForwardOptions &
  QueryKeyNormOption &
  GateOption &
  StrengthOption;

/** Inputs of {@link gatedDeltaNetBackward}. */
export type GatedDeltaNetBackwardInputs = QueryKeyValue &
  TokenGate &
  WriteStrength &
  OutputGradients;

/** Options of {@link gatedDeltaNetBackward}: those of the forward that shape the problem. */
export type GatedDeltaNetBackwardOptions = BackwardOptions<'dg' | 'dALog' | 'dDtBias' | 'dbeta'> &
  QueryKeyNormOption &
  GateOption &
  StrengthOption;

/** What {@link gatedDeltaNetBackward} returns. */
export type GatedDeltaNetBackwardResult = BackwardResult & GateGradient & StrengthGradient;

/**
 * The delta rule with one decay per token and value head.
 *
 *     S <- (I - beta_t k_t k_t^T) exp(g_t) S + beta_t k_t v_t^T;   o_t = scale * S^T q_t
 *
 * Shapes: q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]`, g `[B,T,HV]`, beta `[B,T,HV]` -> o `[B,T,HV,V]`. Dtypes as in
 * {@link recurrence}.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Yang et al., Gated Delta Networks, 2024 (arXiv:2412.06464)
 *
 * @example
 * const { o, finalState } = await gatedDeltaNet({ q, k, v, g, beta }, { qkL2norm: true, outputFinalState: true });
 */
export const gatedDeltaNet: AsyncForward<GatedDeltaNetInputs, GatedDeltaNetOptions, ForwardResult> =
  asynchronous('gatedDeltaNet');

/**
 * {@link gatedDeltaNet} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const gatedDeltaNetSync: SyncForward<
  GatedDeltaNetInputs,
  GatedDeltaNetOptions,
  ForwardResult
> = synchronous('gatedDeltaNet');

/**
 * Gradients of {@link gatedDeltaNet} from dO `[B,T,HV,V]` and dFinalState `[N,HV,K,V]`: dq `[B,T,H,K]`, dk `[B,T,H,K]`,
 * dv `[B,T,HV,V]`, dg like g, dALog and dDtBias where `gate` was given, dbeta like beta, dInitialState `[N,HV,K,V]`
 * where initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const gatedDeltaNetBackward: AsyncBackward<
  GatedDeltaNetBackwardInputs,
  GatedDeltaNetBackwardOptions,
  GatedDeltaNetBackwardResult
> = asynchronous('gatedDeltaNetBackward');

/**
 * {@link gatedDeltaNetBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const gatedDeltaNetBackwardSync: SyncBackward<
  GatedDeltaNetBackwardInputs,
  GatedDeltaNetBackwardOptions,
  GatedDeltaNetBackwardResult
> = synchronous('gatedDeltaNetBackward');

/** Inputs of {@link kda}. */
export type KdaInputs = QueryKeyValue & ChannelGate & WriteStrength & StartingState;

/** Options of {@link kda}. */
export type KdaOptions = ForwardOptions & QueryKeyNormOption & GateOption & StrengthOption;

/** Inputs of {@link kdaBackward}. */
export type KdaBackwardInputs = QueryKeyValue & ChannelGate & WriteStrength & OutputGradients;

/** Options of {@link kdaBackward}: those of the forward that shape the problem. */
export type KdaBackwardOptions = BackwardOptions<'dg' | 'dALog' | 'dDtBias' | 'dbeta'> &
  QueryKeyNormOption &
  GateOption &
  StrengthOption;

/** What {@link kdaBackward} returns. */
export type KdaBackwardResult = BackwardResult & GateGradient & StrengthGradient;

/**
 * Kimi Delta Attention: the delta rule with one decay per token, value head and key channel.
 *
 *     S <- (I - beta_t k_t k_t^T) diag(exp(g_t)) S + beta_t k_t v_t^T;   o_t = scale * S^T q_t
 *
 * Shapes: q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]`, g `[B,T,HV,K]`, beta `[B,T,HV]` -> o `[B,T,HV,V]`. Dtypes as in
 * {@link recurrence}.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Kimi Team, Kimi Linear, 2025 (arXiv:2510.26692)
 */
export const kda: AsyncForward<KdaInputs, KdaOptions, ForwardResult> = asynchronous('kda');

/**
 * {@link kda} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const kdaSync: SyncForward<KdaInputs, KdaOptions, ForwardResult> = synchronous('kda');

/**
 * Gradients of {@link kda} from dO `[B,T,HV,V]` and dFinalState `[N,HV,K,V]`: dq `[B,T,H,K]`, dk `[B,T,H,K]`, dv
 * `[B,T,HV,V]`, dg like g, dALog and dDtBias where `gate` was given, dbeta like beta, dInitialState `[N,HV,K,V]` where
 * initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const kdaBackward: AsyncBackward<KdaBackwardInputs, KdaBackwardOptions, KdaBackwardResult> =
  asynchronous('kdaBackward');

/**
 * {@link kdaBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const kdaBackwardSync: SyncBackward<
  KdaBackwardInputs,
  KdaBackwardOptions,
  KdaBackwardResult
> = synchronous('kdaBackward');

/** Inputs of {@link deltaProduct}. */
export type DeltaProductInputs = QueryKeyValue & WriteStrength & StartingState;

/** Options of {@link deltaProduct}. */
export type DeltaProductOptions = ForwardOptions &
  QueryKeyNormOption &
  StrengthOption &
  HouseholderOption;

/** Inputs of {@link deltaProductBackward}. */
export type DeltaProductBackwardInputs = QueryKeyValue & WriteStrength & OutputGradients;

/** Options of {@link deltaProductBackward}: those of the forward that shape the problem. */
export type DeltaProductBackwardOptions = BackwardOptions<'dbeta'> &
  QueryKeyNormOption &
  StrengthOption &
  HouseholderOption;

/** What {@link deltaProductBackward} returns. */
export type DeltaProductBackwardResult = BackwardResult & StrengthGradient;

/**
 * n = numHouseholder steps of the delta rule per token: the state is multiplied by a product of n Householder-like
 * matrices.
 *
 *     S <- (I - beta_tj k_tj k_tj^T) S + beta_tj k_tj v_tj^T  for j = 1..n;   o_t = scale * S^T q_t
 *
 * Shapes: q `[B,T,H,K]`, k `[B,T*n,H,K]`, v `[B,T*n,HV,V]`, beta `[B,T*n,HV]` -> o `[B,T,HV,V]`. Dtypes as in
 * {@link recurrence}.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Siems et al., DeltaProduct, 2025 (arXiv:2502.10297)
 */
export const deltaProduct: AsyncForward<DeltaProductInputs, DeltaProductOptions, ForwardResult> =
  asynchronous('deltaProduct');

/**
 * {@link deltaProduct} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const deltaProductSync: SyncForward<DeltaProductInputs, DeltaProductOptions, ForwardResult> =
  synchronous('deltaProduct');

/**
 * Gradients of {@link deltaProduct} from dO `[B,T,HV,V]` and dFinalState `[N,HV,K,V]`: dq `[B,T,H,K]`, dk
 * `[B,T*n,H,K]`, dv `[B,T*n,HV,V]`, dbeta like beta, dInitialState `[N,HV,K,V]` where initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const deltaProductBackward: AsyncBackward<
  DeltaProductBackwardInputs,
  DeltaProductBackwardOptions,
  DeltaProductBackwardResult
> = asynchronous('deltaProductBackward');

/**
 * {@link deltaProductBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const deltaProductBackwardSync: SyncBackward<
  DeltaProductBackwardInputs,
  DeltaProductBackwardOptions,
  DeltaProductBackwardResult
> = synchronous('deltaProductBackward');

/** Inputs of {@link gatedDeltaProduct}. */
export type GatedDeltaProductInputs = QueryKeyValue & TokenGate & WriteStrength & StartingState;

/** Options of {@link gatedDeltaProduct}. */
export type GatedDeltaProductOptions = ForwardOptions &
  QueryKeyNormOption &
  GateOption &
  StrengthOption &
  HouseholderOption;

/** Inputs of {@link gatedDeltaProductBackward}. */
export type GatedDeltaProductBackwardInputs = QueryKeyValue &
  TokenGate &
  WriteStrength &
  OutputGradients;

/** Options of {@link gatedDeltaProductBackward}: those of the forward that shape the problem. */
export type GatedDeltaProductBackwardOptions = BackwardOptions<
  'dg' | 'dALog' | 'dDtBias' | 'dbeta'
> &
  QueryKeyNormOption &
  GateOption &
  StrengthOption &
  HouseholderOption;

/** What {@link gatedDeltaProductBackward} returns. */
export type GatedDeltaProductBackwardResult = BackwardResult & GateGradient & StrengthGradient;

/**
 * n = numHouseholder steps of the delta rule per token after one decay per token and value head.
 *
 *     S <- exp(g_t) S, then S <- (I - beta_tj k_tj k_tj^T) S + beta_tj k_tj v_tj^T  for j = 1..n;   o_t = scale * S^T q_t
 *
 * Shapes: q `[B,T,H,K]`, k `[B,T*n,H,K]`, v `[B,T*n,HV,V]`, g `[B,T,HV]`, beta `[B,T*n,HV]` -> o `[B,T,HV,V]`. Dtypes
 * as in {@link recurrence}.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Siems et al., DeltaProduct, 2025 (arXiv:2502.10297)
 */
export const gatedDeltaProduct: AsyncForward<
  GatedDeltaProductInputs,
  GatedDeltaProductOptions,
  ForwardResult
> = asynchronous('gatedDeltaProduct');

/**
 * {@link gatedDeltaProduct} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const gatedDeltaProductSync: SyncForward<
  GatedDeltaProductInputs,
  GatedDeltaProductOptions,
  ForwardResult
> = synchronous('gatedDeltaProduct');

/**
 * Gradients of {@link gatedDeltaProduct} from dO `[B,T,HV,V]` and dFinalState `[N,HV,K,V]`: dq `[B,T,H,K]`, dk
 * `[B,T*n,H,K]`, dv `[B,T*n,HV,V]`, dg like g, dALog and dDtBias where `gate` was given, dbeta like beta, dInitialState
 * `[N,HV,K,V]` where initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const gatedDeltaProductBackward: AsyncBackward<
  GatedDeltaProductBackwardInputs,
  GatedDeltaProductBackwardOptions,
  GatedDeltaProductBackwardResult
> = asynchronous('gatedDeltaProductBackward');

/**
 * {@link gatedDeltaProductBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const gatedDeltaProductBackwardSync: SyncBackward<
  GatedDeltaProductBackwardInputs,
  GatedDeltaProductBackwardOptions,
  GatedDeltaProductBackwardResult
> = synchronous('gatedDeltaProductBackward');
