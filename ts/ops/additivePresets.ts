// The papers that are additive cells of the grid: rows of cpp/ops/presets.cpp with their types.
import { asynchronous, synchronous } from '../marshal';
import type { AsyncOperation, SyncOperation } from '../types';
import type {
  BackwardOptions,
  BackwardResult,
  ChannelGate,
  ForwardOptions,
  ForwardResult,
  GateGradient,
  OutputGradients,
  QueryKeyValue,
  StartingState,
  TokenGate,
} from './recurrence';

/** Required options of lightning attention. */
export interface LayerOption {
  /** Index of this layer, 0 to layers. */
  layer: number;
  /** How many layers the model has. */
  layers: number;
}

/** Inputs of {@link linearAttention}. */
export type LinearAttentionInputs = QueryKeyValue & StartingState;

/** Options of {@link linearAttention}. */
export type LinearAttentionOptions = ForwardOptions;

/** Inputs of {@link linearAttentionBackward}. */
export type LinearAttentionBackwardInputs = QueryKeyValue & OutputGradients;

/** Options of {@link linearAttentionBackward}: those of the forward that shape the problem. */
export type LinearAttentionBackwardOptions = BackwardOptions<'dq' | 'dk' | 'dv' | 'dInitialState'>;

/** What {@link linearAttentionBackward} returns. */
export type LinearAttentionBackwardResult = BackwardResult;

/**
 * Linear attention without gate.
 *
 *     S <- S + k_t v_t^T;   o_t = scale * S^T q_t
 *
 * All float32: q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]` -> o `[B,T,HV,V]`.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Katharopoulos et al., Transformers are RNNs, 2020 (arXiv:2006.16236); without its feature map and normalizer
 */
export const linearAttention: AsyncOperation<
  LinearAttentionInputs,
  LinearAttentionOptions,
  ForwardResult
> = asynchronous('linearAttention');

/**
 * {@link linearAttention} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const linearAttentionSync: SyncOperation<
  LinearAttentionInputs,
  LinearAttentionOptions,
  ForwardResult
> = synchronous('linearAttention');

/**
 * Gradients of {@link linearAttention} from dO `[B,T,HV,V]` and dFinalState `[B,HV,K,V]`: dq `[B,T,H,K]`, dk
 * `[B,T,H,K]`, dv `[B,T,HV,V]`, dInitialState `[B,HV,K,V]` where initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const linearAttentionBackward: AsyncOperation<
  LinearAttentionBackwardInputs,
  LinearAttentionBackwardOptions,
  LinearAttentionBackwardResult
> = asynchronous('linearAttentionBackward');

/**
 * {@link linearAttentionBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const linearAttentionBackwardSync: SyncOperation<
  LinearAttentionBackwardInputs,
  LinearAttentionBackwardOptions,
  LinearAttentionBackwardResult
> = synchronous('linearAttentionBackward');

/** Inputs of {@link retention}. */
export type RetentionInputs = QueryKeyValue & StartingState;

/** Options of {@link retention}. */
export type RetentionOptions = ForwardOptions;

/** Inputs of {@link retentionBackward}. */
export type RetentionBackwardInputs = QueryKeyValue & OutputGradients;

/** Options of {@link retentionBackward}: those of the forward that shape the problem. */
export type RetentionBackwardOptions = BackwardOptions<'dq' | 'dk' | 'dv' | 'dInitialState'>;

/** What {@link retentionBackward} returns. */
export type RetentionBackwardResult = BackwardResult;

/**
 * Retention: every value head h = 0..HV-1 decays at a rate of its own, fixed by its index. Takes no g.
 *
 *     S <- (1 - 2^(-5-h)) S + k_t v_t^T;   o_t = scale * S^T q_t
 *
 * All float32: q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]` -> o `[B,T,HV,V]`.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Sun et al., Retentive Network, 2023 (arXiv:2307.08621)
 */
export const retention: AsyncOperation<RetentionInputs, RetentionOptions, ForwardResult> =
  asynchronous('retention');

/**
 * {@link retention} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const retentionSync: SyncOperation<RetentionInputs, RetentionOptions, ForwardResult> =
  synchronous('retention');

/**
 * Gradients of {@link retention} from dO `[B,T,HV,V]` and dFinalState `[B,HV,K,V]`: dq `[B,T,H,K]`, dk `[B,T,H,K]`, dv
 * `[B,T,HV,V]`, dInitialState `[B,HV,K,V]` where initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const retentionBackward: AsyncOperation<
  RetentionBackwardInputs,
  RetentionBackwardOptions,
  RetentionBackwardResult
> = asynchronous('retentionBackward');

/**
 * {@link retentionBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const retentionBackwardSync: SyncOperation<
  RetentionBackwardInputs,
  RetentionBackwardOptions,
  RetentionBackwardResult
> = synchronous('retentionBackward');

/** Inputs of {@link lightningAttention}. */
export type LightningAttentionInputs = QueryKeyValue & StartingState;

/** Options of {@link lightningAttention}. */
export type LightningAttentionOptions = ForwardOptions & LayerOption;

/** Inputs of {@link lightningAttentionBackward}. */
export type LightningAttentionBackwardInputs = QueryKeyValue & OutputGradients;

/** Options of {@link lightningAttentionBackward}: those of the forward that shape the problem. */
export type LightningAttentionBackwardOptions = BackwardOptions<
  'dq' | 'dk' | 'dv' | 'dInitialState'
> &
  LayerOption;

/** What {@link lightningAttentionBackward} returns. */
export type LightningAttentionBackwardResult = BackwardResult;

/**
 * Lightning attention: the decay is fixed by the value head h = 0..HV-1 and by the depth of the layer, so the options
 * `layer` and `layers` are required. Takes no g.
 *
 *     S <- exp(-(8/HV) (1 - layer/layers) h) S + k_t v_t^T;   o_t = scale * S^T q_t
 *
 * All float32: q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]` -> o `[B,T,HV,V]`.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Qin et al., Lightning Attention-2, 2024 (arXiv:2401.04658)
 */
export const lightningAttention: AsyncOperation<
  LightningAttentionInputs,
  LightningAttentionOptions,
  ForwardResult
> = asynchronous('lightningAttention');

/**
 * {@link lightningAttention} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const lightningAttentionSync: SyncOperation<
  LightningAttentionInputs,
  LightningAttentionOptions,
  ForwardResult
> = synchronous('lightningAttention');

/**
 * Gradients of {@link lightningAttention} from dO `[B,T,HV,V]` and dFinalState `[B,HV,K,V]`: dq `[B,T,H,K]`, dk
 * `[B,T,H,K]`, dv `[B,T,HV,V]`, dInitialState `[B,HV,K,V]` where initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const lightningAttentionBackward: AsyncOperation<
  LightningAttentionBackwardInputs,
  LightningAttentionBackwardOptions,
  LightningAttentionBackwardResult
> = asynchronous('lightningAttentionBackward');

/**
 * {@link lightningAttentionBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const lightningAttentionBackwardSync: SyncOperation<
  LightningAttentionBackwardInputs,
  LightningAttentionBackwardOptions,
  LightningAttentionBackwardResult
> = synchronous('lightningAttentionBackward');

/** Inputs of {@link simpleGla}. */
export type SimpleGlaInputs = QueryKeyValue & TokenGate & StartingState;

/** Options of {@link simpleGla}. */
export type SimpleGlaOptions = ForwardOptions;

/** Inputs of {@link simpleGlaBackward}. */
export type SimpleGlaBackwardInputs = QueryKeyValue & TokenGate & OutputGradients;

/** Options of {@link simpleGlaBackward}: those of the forward that shape the problem. */
export type SimpleGlaBackwardOptions = BackwardOptions<'dq' | 'dk' | 'dv' | 'dg' | 'dInitialState'>;

/** What {@link simpleGlaBackward} returns. */
export type SimpleGlaBackwardResult = BackwardResult & GateGradient;

/**
 * Gated linear attention with one decay per token and value head.
 *
 *     S <- exp(g_t) S + k_t v_t^T;   o_t = scale * S^T q_t
 *
 * All float32: q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]`, g `[B,T,HV]` -> o `[B,T,HV,V]`.
 *
 * @throws (rejects) as {@link recurrence}
 * @see the scalar-gated form of Yang et al., 2023 (arXiv:2312.06635); the recurrence of Mamba-2 (arXiv:2405.21060)
 */
export const simpleGla: AsyncOperation<SimpleGlaInputs, SimpleGlaOptions, ForwardResult> =
  asynchronous('simpleGla');

/**
 * {@link simpleGla} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const simpleGlaSync: SyncOperation<SimpleGlaInputs, SimpleGlaOptions, ForwardResult> =
  synchronous('simpleGla');

/**
 * Gradients of {@link simpleGla} from dO `[B,T,HV,V]` and dFinalState `[B,HV,K,V]`: dq `[B,T,H,K]`, dk `[B,T,H,K]`, dv
 * `[B,T,HV,V]`, dg like g, dInitialState `[B,HV,K,V]` where initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const simpleGlaBackward: AsyncOperation<
  SimpleGlaBackwardInputs,
  SimpleGlaBackwardOptions,
  SimpleGlaBackwardResult
> = asynchronous('simpleGlaBackward');

/**
 * {@link simpleGlaBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const simpleGlaBackwardSync: SyncOperation<
  SimpleGlaBackwardInputs,
  SimpleGlaBackwardOptions,
  SimpleGlaBackwardResult
> = synchronous('simpleGlaBackward');

/** Inputs of {@link gla}. */
export type GlaInputs = QueryKeyValue & ChannelGate & StartingState;

/** Options of {@link gla}. */
export type GlaOptions = ForwardOptions;

/** Inputs of {@link glaBackward}. */
export type GlaBackwardInputs = QueryKeyValue & ChannelGate & OutputGradients;

/** Options of {@link glaBackward}: those of the forward that shape the problem. */
export type GlaBackwardOptions = BackwardOptions<'dq' | 'dk' | 'dv' | 'dg' | 'dInitialState'>;

/** What {@link glaBackward} returns. */
export type GlaBackwardResult = BackwardResult & GateGradient;

/**
 * Gated linear attention with one decay per token, value head and key channel.
 *
 *     S <- diag(exp(g_t)) S + k_t v_t^T;   o_t = scale * S^T q_t
 *
 * All float32: q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]`, g `[B,T,HV,K]` -> o `[B,T,HV,V]`.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Yang et al., Gated Linear Attention Transformers, 2023 (arXiv:2312.06635)
 */
export const gla: AsyncOperation<GlaInputs, GlaOptions, ForwardResult> = asynchronous('gla');

/**
 * {@link gla} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const glaSync: SyncOperation<GlaInputs, GlaOptions, ForwardResult> = synchronous('gla');

/**
 * Gradients of {@link gla} from dO `[B,T,HV,V]` and dFinalState `[B,HV,K,V]`: dq `[B,T,H,K]`, dk `[B,T,H,K]`, dv
 * `[B,T,HV,V]`, dg like g, dInitialState `[B,HV,K,V]` where initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const glaBackward: AsyncOperation<GlaBackwardInputs, GlaBackwardOptions, GlaBackwardResult> =
  asynchronous('glaBackward');

/**
 * {@link glaBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const glaBackwardSync: SyncOperation<
  GlaBackwardInputs,
  GlaBackwardOptions,
  GlaBackwardResult
> = synchronous('glaBackward');
