// The papers that are additive cells of the grid: rows of cpp/ops/presets.cpp with their types.
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
  NormalizedForwardResult,
  NormalizedOutputGradients,
  NormalizedStart,
  NormalizeOption,
  OutputGradients,
  QueryKeyNormOption,
  QueryKeyValue,
  StartingState,
  SumGradient,
  SyncBackward,
  SyncForward,
  TokenGate,
} from './grid';

/** Required options of lightning attention. */
export interface LayerOption {
  /** Index of this layer, 0 to layers. */
  layer: number;
  /** How many layers the model has. */
  layers: number;
}

/** Inputs of {@link linearAttention}. */
export type LinearAttentionInputs = QueryKeyValue & NormalizedStart;

/** Options of {@link linearAttention}. */
export type LinearAttentionOptions = ForwardOptions<'o' | 'finalState' | 'finalZ'> &
  QueryKeyNormOption &
  NormalizeOption;

/** Inputs of {@link linearAttentionBackward}. */
export type LinearAttentionBackwardInputs = QueryKeyValue & NormalizedOutputGradients;

/** Options of {@link linearAttentionBackward}: those of the forward that shape the problem. */
export type LinearAttentionBackwardOptions = BackwardOptions<'dInitialZ'> &
  QueryKeyNormOption &
  NormalizeOption;

/** What {@link linearAttentionBackward} returns. */
export type LinearAttentionBackwardResult = BackwardResult & SumGradient;

/**
 * Linear attention without gate.
 *
 *     S <- S + k_t v_t^T;   o_t = scale * S^T q_t
 *
 * Shapes: q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]` -> o `[B,T,HV,V]`. Dtypes as in {@link recurrence}.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Katharopoulos et al., Transformers are RNNs, 2020 (arXiv:2006.16236); without its feature map; its
 * normalizer is the option `normalize`
 */
export const linearAttention: AsyncForward<
  LinearAttentionInputs,
  LinearAttentionOptions,
  NormalizedForwardResult
> = asynchronous('linearAttention');

/**
 * {@link linearAttention} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const linearAttentionSync: SyncForward<
  LinearAttentionInputs,
  LinearAttentionOptions,
  NormalizedForwardResult
> = synchronous('linearAttention');

/**
 * Gradients of {@link linearAttention} from dO `[B,T,HV,V]`, dFinalState `[N,HV,K,V]` and dFinalZ `[N,H,K]`: dq
 * `[B,T,H,K]`, dk `[B,T,H,K]`, dv `[B,T,HV,V]`, dInitialState `[N,HV,K,V]` where initialState was given, dInitialZ
 * `[N,H,K]` where initialZ was.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const linearAttentionBackward: AsyncBackward<
  LinearAttentionBackwardInputs,
  LinearAttentionBackwardOptions,
  LinearAttentionBackwardResult
> = asynchronous('linearAttentionBackward');

/**
 * {@link linearAttentionBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const linearAttentionBackwardSync: SyncBackward<
  LinearAttentionBackwardInputs,
  LinearAttentionBackwardOptions,
  LinearAttentionBackwardResult
> = synchronous('linearAttentionBackward');

/** Inputs of {@link retention}. */
export type RetentionInputs = QueryKeyValue & StartingState;

/** Options of {@link retention}. */
export type RetentionOptions = ForwardOptions & QueryKeyNormOption;

/** Inputs of {@link retentionBackward}. */
export type RetentionBackwardInputs = QueryKeyValue & OutputGradients;

/** Options of {@link retentionBackward}: those of the forward that shape the problem. */
export type RetentionBackwardOptions = BackwardOptions & QueryKeyNormOption;

/** What {@link retentionBackward} returns. */
export type RetentionBackwardResult = BackwardResult;

/**
 * Retention: every value head h = 0..HV-1 decays at a rate of its own, fixed by its index. Takes no g.
 *
 *     S <- (1 - 2^(-5-h)) S + k_t v_t^T;   o_t = scale * S^T q_t
 *
 * Shapes: q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]` -> o `[B,T,HV,V]`. Dtypes as in {@link recurrence}.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Sun et al., Retentive Network, 2023 (arXiv:2307.08621)
 */
export const retention: AsyncForward<RetentionInputs, RetentionOptions, ForwardResult> =
  asynchronous('retention');

/**
 * {@link retention} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const retentionSync: SyncForward<RetentionInputs, RetentionOptions, ForwardResult> =
  synchronous('retention');

/**
 * Gradients of {@link retention} from dO `[B,T,HV,V]` and dFinalState `[N,HV,K,V]`: dq `[B,T,H,K]`, dk `[B,T,H,K]`, dv
 * `[B,T,HV,V]`, dInitialState `[N,HV,K,V]` where initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const retentionBackward: AsyncBackward<
  RetentionBackwardInputs,
  RetentionBackwardOptions,
  RetentionBackwardResult
> = asynchronous('retentionBackward');

/**
 * {@link retentionBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const retentionBackwardSync: SyncBackward<
  RetentionBackwardInputs,
  RetentionBackwardOptions,
  RetentionBackwardResult
> = synchronous('retentionBackward');

/** Inputs of {@link lightningAttention}. */
export type LightningAttentionInputs = QueryKeyValue & StartingState;

/** Options of {@link lightningAttention}. */
export type LightningAttentionOptions = ForwardOptions & QueryKeyNormOption & LayerOption;

/** Inputs of {@link lightningAttentionBackward}. */
export type LightningAttentionBackwardInputs = QueryKeyValue & OutputGradients;

/** Options of {@link lightningAttentionBackward}: those of the forward that shape the problem. */
export type LightningAttentionBackwardOptions = BackwardOptions & QueryKeyNormOption & LayerOption;

/** What {@link lightningAttentionBackward} returns. */
export type LightningAttentionBackwardResult = BackwardResult;

/**
 * Lightning attention: the decay is fixed by the value head h = 0..HV-1 and by the depth of the layer, so the options
 * `layer` and `layers` are required. Takes no g.
 *
 *     S <- exp(-(8/HV) (1 - layer/layers) h) S + k_t v_t^T;   o_t = scale * S^T q_t
 *
 * Shapes: q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]` -> o `[B,T,HV,V]`. Dtypes as in {@link recurrence}.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Qin et al., Lightning Attention-2, 2024 (arXiv:2401.04658)
 */
export const lightningAttention: AsyncForward<
  LightningAttentionInputs,
  LightningAttentionOptions,
  ForwardResult
> = asynchronous('lightningAttention');

/**
 * {@link lightningAttention} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const lightningAttentionSync: SyncForward<
  LightningAttentionInputs,
  LightningAttentionOptions,
  ForwardResult
> = synchronous('lightningAttention');

/**
 * Gradients of {@link lightningAttention} from dO `[B,T,HV,V]` and dFinalState `[N,HV,K,V]`: dq `[B,T,H,K]`, dk
 * `[B,T,H,K]`, dv `[B,T,HV,V]`, dInitialState `[N,HV,K,V]` where initialState was given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const lightningAttentionBackward: AsyncBackward<
  LightningAttentionBackwardInputs,
  LightningAttentionBackwardOptions,
  LightningAttentionBackwardResult
> = asynchronous('lightningAttentionBackward');

/**
 * {@link lightningAttentionBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const lightningAttentionBackwardSync: SyncBackward<
  LightningAttentionBackwardInputs,
  LightningAttentionBackwardOptions,
  LightningAttentionBackwardResult
> = synchronous('lightningAttentionBackward');

/** Inputs of {@link simpleGla}. */
export type SimpleGlaInputs = QueryKeyValue & TokenGate & StartingState;

/** Options of {@link simpleGla}. */
export type SimpleGlaOptions = ForwardOptions & QueryKeyNormOption & GateOption;

/** Inputs of {@link simpleGlaBackward}. */
export type SimpleGlaBackwardInputs = QueryKeyValue & TokenGate & OutputGradients;

/** Options of {@link simpleGlaBackward}: those of the forward that shape the problem. */
export type SimpleGlaBackwardOptions = BackwardOptions<'dg' | 'dALog' | 'dDtBias'> &
  QueryKeyNormOption &
  GateOption;

/** What {@link simpleGlaBackward} returns. */
export type SimpleGlaBackwardResult = BackwardResult & GateGradient;

/**
 * Gated linear attention with one decay per token and value head.
 *
 *     S <- exp(g_t) S + k_t v_t^T;   o_t = scale * S^T q_t
 *
 * Shapes: q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]`, g `[B,T,HV]` -> o `[B,T,HV,V]`. Dtypes as in
 * {@link recurrence}.
 *
 * @throws (rejects) as {@link recurrence}
 * @see the scalar-gated form of Yang et al., 2023 (arXiv:2312.06635); the recurrence of Mamba-2 (arXiv:2405.21060)
 */
export const simpleGla: AsyncForward<SimpleGlaInputs, SimpleGlaOptions, ForwardResult> =
  asynchronous('simpleGla');

/**
 * {@link simpleGla} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const simpleGlaSync: SyncForward<SimpleGlaInputs, SimpleGlaOptions, ForwardResult> =
  synchronous('simpleGla');

/**
 * Gradients of {@link simpleGla} from dO `[B,T,HV,V]` and dFinalState `[N,HV,K,V]`: dq `[B,T,H,K]`, dk `[B,T,H,K]`, dv
 * `[B,T,HV,V]`, dg like g, dALog and dDtBias where `gate` was given, dInitialState `[N,HV,K,V]` where initialState was
 * given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const simpleGlaBackward: AsyncBackward<
  SimpleGlaBackwardInputs,
  SimpleGlaBackwardOptions,
  SimpleGlaBackwardResult
> = asynchronous('simpleGlaBackward');

/**
 * {@link simpleGlaBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const simpleGlaBackwardSync: SyncBackward<
  SimpleGlaBackwardInputs,
  SimpleGlaBackwardOptions,
  SimpleGlaBackwardResult
> = synchronous('simpleGlaBackward');

/** Inputs of {@link gla}. */
export type GlaInputs = QueryKeyValue & ChannelGate & StartingState;

/** Options of {@link gla}. */
export type GlaOptions = ForwardOptions & QueryKeyNormOption & GateOption;

/** Inputs of {@link glaBackward}. */
export type GlaBackwardInputs = QueryKeyValue & ChannelGate & OutputGradients;

/** Options of {@link glaBackward}: those of the forward that shape the problem. */
export type GlaBackwardOptions = BackwardOptions<'dg' | 'dALog' | 'dDtBias'> &
  QueryKeyNormOption &
  GateOption;

/** What {@link glaBackward} returns. */
export type GlaBackwardResult = BackwardResult & GateGradient;

/**
 * Gated linear attention with one decay per token, value head and key channel.
 *
 *     S <- diag(exp(g_t)) S + k_t v_t^T;   o_t = scale * S^T q_t
 *
 * Shapes: q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]`, g `[B,T,HV,K]` -> o `[B,T,HV,V]`. Dtypes as in
 * {@link recurrence}.
 *
 * @throws (rejects) as {@link recurrence}
 * @see Yang et al., Gated Linear Attention Transformers, 2023 (arXiv:2312.06635)
 */
export const gla: AsyncForward<GlaInputs, GlaOptions, ForwardResult> = asynchronous('gla');

/**
 * {@link gla} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const glaSync: SyncForward<GlaInputs, GlaOptions, ForwardResult> = synchronous('gla');

/**
 * Gradients of {@link gla} from dO `[B,T,HV,V]` and dFinalState `[N,HV,K,V]`: dq `[B,T,H,K]`, dk `[B,T,H,K]`, dv
 * `[B,T,HV,V]`, dg like g, dALog and dDtBias where `gate` was given, dInitialState `[N,HV,K,V]` where initialState was
 * given.
 * @throws (rejects) as {@link recurrenceBackward}
 */
export const glaBackward: AsyncBackward<GlaBackwardInputs, GlaBackwardOptions, GlaBackwardResult> =
  asynchronous('glaBackward');

/**
 * {@link glaBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const glaBackwardSync: SyncBackward<
  GlaBackwardInputs,
  GlaBackwardOptions,
  GlaBackwardResult
> = synchronous('glaBackward');
