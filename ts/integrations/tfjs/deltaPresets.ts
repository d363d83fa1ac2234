// The papers that are delta cells of the grid, as operations of TensorFlow.js.
import type {
  DeltaNetInputs,
  DeltaNetOptions,
  DeltaProductInputs,
  DeltaProductOptions,
  GatedDeltaNetInputs,
  GatedDeltaNetOptions,
  GatedDeltaProductInputs,
  GatedDeltaProductOptions,
  KdaInputs,
  KdaOptions,
} from '../../ops/deltaPresets';
import type { ForwardResult } from '../../ops/grid';
import { differentiable } from './differentiable';
import type { DifferentiableOperation } from './types';

/**
 * The delta rule: every write replaces what the state held under its key. q `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]`,
 * beta `[B,T,HV]` -> o `[B,T,HV,V]`.
 * @throws as {@link recurrence}
 * @see Yang et al., Parallelizing Linear Transformers with the Delta Rule, 2024 (arXiv:2406.06484)
 */
export const deltaNet: DifferentiableOperation<DeltaNetInputs, DeltaNetOptions, ForwardResult> =
  differentiable('deltaNet');

/**
 * The delta rule with one log decay per token and value head, g `[B,T,HV]`. q `[B,T,H,K]`, k `[B,T,H,K]`, v
 * `[B,T,HV,V]`, beta `[B,T,HV]` -> o `[B,T,HV,V]`.
 * @throws as {@link recurrence}
 * @see Yang et al., Gated Delta Networks, 2024 (arXiv:2412.06464)
 *
 * @example
 * const { o } = gatedDeltaNet({ q, k, v, g, beta });
 */
export const gatedDeltaNet: DifferentiableOperation<
  GatedDeltaNetInputs,
  GatedDeltaNetOptions,
  ForwardResult
> = differentiable('gatedDeltaNet');

/**
 * Kimi Delta Attention: the delta rule with one log decay per token, value head and key channel, g `[B,T,HV,K]`. q
 * `[B,T,H,K]`, k `[B,T,H,K]`, v `[B,T,HV,V]`, beta `[B,T,HV]` -> o `[B,T,HV,V]`.
 * @throws as {@link recurrence}
 * @see Kimi Team, Kimi Linear, 2025 (arXiv:2510.26692)
 */
export const kda: DifferentiableOperation<KdaInputs, KdaOptions, ForwardResult> =
  differentiable('kda');

/**
 * DeltaProduct: n = `numHouseholder` delta steps a token. q `[B,T,H,K]`, k `[B,T*n,H,K]`, v `[B,T*n,HV,V]`, beta
 * `[B,T*n,HV]` -> o `[B,T,HV,V]`.
 * @throws as {@link recurrence}
 * @see Siems et al., DeltaProduct, 2025 (arXiv:2502.10297)
 */
export const deltaProduct: DifferentiableOperation<
  DeltaProductInputs,
  DeltaProductOptions,
  ForwardResult
> = differentiable('deltaProduct');

/**
 * {@link deltaProduct} with one log decay per token and value head, g `[B,T,HV]`, applied before the first of the n
 * steps.
 * @throws as {@link recurrence}
 * @see Siems et al., DeltaProduct, 2025 (arXiv:2502.10297)
 */
export const gatedDeltaProduct: DifferentiableOperation<
  GatedDeltaProductInputs,
  GatedDeltaProductOptions,
  ForwardResult
> = differentiable('gatedDeltaProduct');
