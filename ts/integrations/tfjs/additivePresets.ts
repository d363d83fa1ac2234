// The papers that are additive cells of the grid, as operations of TensorFlow.js.
import type {
  GlaInputs,
  GlaOptions,
  LightningAttentionInputs,
  LightningAttentionOptions,
  LinearAttentionInputs,
  LinearAttentionOptions,
  RetentionInputs,
  RetentionOptions,
  SimpleGlaInputs,
  SimpleGlaOptions,
} from '../../ops/additivePresets';
import type { ForwardResult, NormalizedForwardResult } from '../../ops/grid';
import type { Hgrn2Inputs, Hgrn2Options } from '../../ops/hgrn2';
import type { Mamba2Inputs, Mamba2Options, Mamba2Result } from '../../ops/mamba2';
import { differentiable } from './differentiable';
import type { DifferentiableOperation } from './types';

/**
 * Linear attention without gate: `S <- S + k_t v_t^T; o_t = scale * S^T q_t`. q `[B,T,H,K]`, k `[B,T,H,K]`, v
 * `[B,T,HV,V]` -> o `[B,T,HV,V]`.
 * @throws as {@link recurrence}
 * @see Katharopoulos et al., Transformers are RNNs, 2020 (arXiv:2006.16236); without its feature map; its
 * normalizer is the option `normalize`
 */
export const linearAttention: DifferentiableOperation<
  LinearAttentionInputs,
  LinearAttentionOptions,
  NormalizedForwardResult
> = differentiable('linearAttention');

/**
 * Retention: linear attention with one fixed decay per value head, `1 - 2^(-5-h)`. q `[B,T,H,K]`, k `[B,T,H,K]`, v
 * `[B,T,HV,V]` -> o `[B,T,HV,V]`.
 * @throws as {@link recurrence}
 * @see Sun et al., Retentive Network, 2023 (arXiv:2307.08621)
 */
export const retention: DifferentiableOperation<RetentionInputs, RetentionOptions, ForwardResult> =
  differentiable('retention');

/**
 * Lightning attention: linear attention with one fixed decay per value head and layer; the options `layer` and `layers`
 * are required. q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]` -> o `[B,T,HV,V]`.
 * @throws as {@link recurrence}
 * @see Qin et al., Lightning Attention-2, 2024 (arXiv:2401.04658)
 */
export const lightningAttention: DifferentiableOperation<
  LightningAttentionInputs,
  LightningAttentionOptions,
  ForwardResult
> = differentiable('lightningAttention');

/**
 * Gated linear attention with one log decay per token and value head, g `[B,T,HV]`. q `[B,T,H,K]`, k `[B,T,H,K]`, v
 * `[B,T,HV,V]` -> o `[B,T,HV,V]`.
 * @throws as {@link recurrence}
 * @see Yang et al., Gated Linear Attention Transformers, 2023 (arXiv:2312.06635)
 */
export const simpleGla: DifferentiableOperation<SimpleGlaInputs, SimpleGlaOptions, ForwardResult> =
  differentiable('simpleGla');

/**
 * Gated linear attention with one log decay per token, value head and key channel, g `[B,T,HV,K]`. q `[B,T,H,K]`, k
 * `[B,T,H,K]`, v `[B,T,HV,V]` -> o `[B,T,HV,V]`.
 * @throws as {@link recurrence}
 * @see Yang et al., Gated Linear Attention Transformers, 2023 (arXiv:2312.06635)
 */
export const gla: DifferentiableOperation<GlaInputs, GlaOptions, ForwardResult> =
  differentiable('gla');

/**
 * HGRN2: gated linear attention whose keys are `1 - exp(g)`. q `[B,T,H,K]`, v `[B,T,H,V]`, g `[B,T,H,K]` -> o
 * `[B,T,H,V]`.
 * @throws as {@link recurrence}
 * @see Qin et al., HGRN2, 2024 (arXiv:2404.07904)
 */
export const hgrn2: DifferentiableOperation<Hgrn2Inputs, Hgrn2Options, ForwardResult> =
  differentiable('hgrn2');

/**
 * The state space duality of Mamba-2, with its paper's names: x `[B,T,HV,P]`, dt `[B,T,HV]`, A `[HV]`, B and C
 * `[B,T,G,N]`, D and dtBias `[HV]` -> y `[B,T,HV,P]`.
 * @throws as {@link recurrence}
 * @see Dao and Gu, Transformers are SSMs, 2024 (arXiv:2405.21060)
 */
export const mamba2: DifferentiableOperation<Mamba2Inputs, Mamba2Options, Mamba2Result> =
  differentiable('mamba2');
