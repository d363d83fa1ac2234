// The layer parts, as operations of TensorFlow.js.
import type {
  CrossEntropyInputs,
  CrossEntropyOptions,
  CrossEntropyResult,
} from '../../ops/crossEntropy';
import type { EmbeddingInputs, EmbeddingOptions, EmbeddingResult } from '../../ops/embedding';
import type { L2normInputs, L2normOptions, L2normResult } from '../../ops/l2norm';
import type { MatmulInputs, MatmulOptions, MatmulResult } from '../../ops/matmul';
import type { RmsNormInputs, RmsNormOptions, RmsNormResult } from '../../ops/rmsNorm';
import type {
  RmsNormGatedInputs,
  RmsNormGatedOptions,
  RmsNormGatedResult,
} from '../../ops/rmsNormGated';
import type { RopeForwardOptions, RopeInputs, RopeResult } from '../../ops/rope';
import type { ShortConvInputs, ShortConvOptions, ShortConvResult } from '../../ops/shortConv';
import type { SwigluInputs, SwigluOptions, SwigluResult } from '../../ops/swiglu';
import { differentiable } from './differentiable';
import type { DifferentiableOperation } from './types';

/**
 * `y = a b + bias`: a `[...,M,K]`, b `[...,K,N]`, bias `[N]`. {@link registerMatMul} gives the same speed to
 * `tf.matMul`.
 * @throws as {@link recurrence}
 */
export const matmul: DifferentiableOperation<MatmulInputs, MatmulOptions, MatmulResult> =
  differentiable('matmul', {
    forwardOnly: ['bias'],
    backwardOptions: ({ bias }) => ({ withBias: bias !== undefined }),
  });

/**
 * Rows of a table: ids `[...]` of int32, weight `[rows,D]` -> y `[...,D]`.
 * @throws as {@link recurrence}
 */
export const embedding: DifferentiableOperation<
  EmbeddingInputs,
  EmbeddingOptions,
  EmbeddingResult
> = differentiable('embedding', {
  indices: ['ids'],
  forwardOnly: ['weight'],
  backwardOptions: ({ weight }) => ({ numEmbeddings: weight!.shape[0] }),
});

/**
 * Causal depthwise convolution over the tokens: x `[B,T,D]`, weight `[D,W]`, bias `[D]`, initialState `[N,D,W-1]` -> y
 * `[B,T,D]`, and finalState like initialState with `outputFinalState`.
 * @throws as {@link recurrence}
 */
export const shortConv: DifferentiableOperation<
  ShortConvInputs,
  ShortConvOptions,
  ShortConvResult
> = differentiable('shortConv');

/**
 * Root mean square normalization over the last dimension: x `[...,D]`, weight `[D]` -> y `[...,D]`.
 * @throws as {@link recurrence}
 * @see Zhang and Sennrich, Root Mean Square Layer Normalization, 2019 (arXiv:1910.07467)
 */
export const rmsNorm: DifferentiableOperation<RmsNormInputs, RmsNormOptions, RmsNormResult> =
  differentiable('rmsNorm');

/**
 * {@link rmsNorm} and a gate of silu or sigmoid, before or after it: x and gate `[...,D]`, weight `[D]` -> y `[...,D]`.
 * @throws as {@link recurrence}
 */
export const rmsNormGated: DifferentiableOperation<
  RmsNormGatedInputs,
  RmsNormGatedOptions,
  RmsNormGatedResult
> = differentiable('rmsNormGated');

/**
 * Vectors of unit length over the last dimension: x `[...,D]` -> y `[...,D]`.
 * @throws as {@link recurrence}
 */
export const l2norm: DifferentiableOperation<L2normInputs, L2normOptions, L2normResult> =
  differentiable('l2norm');

/**
 * Rotary position embedding: x `[B,T,H,D]`, positions `[T]` or `[B,T]` of int32, inverseFrequencies `[R/2]` -> y `[B,T,H,D]`.
 * inverseFrequencies are constants: their gradient is zero.
 * @throws as {@link recurrence}
 * @see Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021 (arXiv:2104.09864)
 */
export const rope: DifferentiableOperation<RopeInputs, RopeForwardOptions, RopeResult> =
  differentiable('rope', {
    indices: ['positions'],
    fixed: ['inverseFrequencies'],
    forwardOnly: ['x'],
  });

/**
 * `y = gate * sigmoid(gate) * up`, elementwise.
 * @throws as {@link recurrence}
 * @see Shazeer, GLU Variants Improve Transformer, 2020 (arXiv:2002.05202)
 */
export const swiglu: DifferentiableOperation<SwigluInputs, SwigluOptions, SwigluResult> =
  differentiable('swiglu');

/**
 * Softmax cross entropy: logits `[...,V]`, targets `[...]` of int32 -> loss `[]`, the mean, and losses `[...]`, which
 * have no gradient: taking it is an error.
 * @throws as {@link recurrence}
 */
export const crossEntropy: DifferentiableOperation<
  CrossEntropyInputs,
  CrossEntropyOptions,
  CrossEntropyResult
> = differentiable('crossEntropy', { indices: ['targets'], constants: ['losses'] });
