// The layer parts, as operations of TensorFlow.js.
import type {
  CrossEntropyInputs,
  CrossEntropyOptions,
  CrossEntropyResult,
} from '../../ops/crossEntropy';
import type { EmbeddingInputs, EmbeddingOptions, EmbeddingResult } from '../../ops/embedding';
import type { MatmulInputs, MatmulOptions, MatmulResult } from '../../ops/matmul';
import type { RmsNormInputs, RmsNormOptions, RmsNormResult } from '../../ops/rmsNorm';
import type {
  RmsNormGatedInputs,
  RmsNormGatedOptions,
  RmsNormGatedResult,
} from '../../ops/rmsNormGated';
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
 * Causal depthwise convolution over the tokens: x `[B,T,D]`, weight `[D,W]`, bias `[D]`, initialState `[B,D,W-1]` -> y
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
 * {@link rmsNorm} times a swish gate: x and gate `[...,D]`, weight `[D]` -> y `[...,D]`.
 * @throws as {@link recurrence}
 */
export const rmsNormGated: DifferentiableOperation<
  RmsNormGatedInputs,
  RmsNormGatedOptions,
  RmsNormGatedResult
> = differentiable('rmsNormGated');

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
