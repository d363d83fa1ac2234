import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, IndexTensor, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** The losses are float32 whatever the logits are. */
type Dtypes = { lead: 'logits'; same: 'dLogits'; either: never };

/** Inputs of {@link crossEntropy}. */
export interface CrossEntropyInputs {
  /** `[...,V]` */
  logits: Tensor;
  /** `[...]`: classes, 0 to V-1, or ignoreIndex */
  targets: IndexTensor;
}

/** Options of {@link crossEntropy}. */
export interface CrossEntropyOptions extends CallOptions<'loss' | 'losses'> {
  /** Rows with this target do not count; default -100. */
  ignoreIndex?: number;
}

/** What {@link crossEntropy} returns. In nats. */
export interface CrossEntropyResult {
  /** `[]`: the mean over the rows that count; 0 when none does */
  loss: ResultTensor;
  /** `[...]`, 0 for rows that do not count */
  losses: ResultTensor;
}

/** Inputs of {@link crossEntropyBackward}. */
export interface CrossEntropyBackwardInputs extends CrossEntropyInputs {
  /** `[]`: gradient of the mean loss; absent means 1 */
  dLoss?: Tensor;
}

/** Options of {@link crossEntropyBackward}. */
export interface CrossEntropyBackwardOptions extends GradientOption, CallOptions<'dLogits'> {
  /** Rows with this target do not count; default -100. */
  ignoreIndex?: number;
}

/** What {@link crossEntropyBackward} returns. */
export interface CrossEntropyBackwardResult {
  /** `[...,V]` */
  dLogits: ResultTensor;
}

/**
 * Softmax cross-entropy of integer targets, in nats, computed in float32, without materializing the softmax:
 * `losses[r] = logsumexp(logits[r,:]) - logits[r, targets[r]]` for every row r, `loss` their mean.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value or a target out of range
 */
export const crossEntropy: AsyncLayer<
  Dtypes,
  CrossEntropyInputs,
  CrossEntropyOptions,
  CrossEntropyResult
> = asynchronous('crossEntropy');

/**
 * {@link crossEntropy} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const crossEntropySync: SyncLayer<
  Dtypes,
  CrossEntropyInputs,
  CrossEntropyOptions,
  CrossEntropyResult
> = synchronous('crossEntropy');

/**
 * Gradient of {@link crossEntropy}'s mean loss: `dLogits = (softmax(logits) - onehot(targets)) * dLoss / count`.
 * @throws (rejects) as {@link crossEntropy}
 */
export const crossEntropyBackward: AsyncLayerBackward<
  Dtypes,
  CrossEntropyBackwardInputs,
  CrossEntropyBackwardOptions,
  CrossEntropyBackwardResult
> = asynchronous('crossEntropyBackward');

/**
 * {@link crossEntropyBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const crossEntropyBackwardSync: SyncLayerBackward<
  Dtypes,
  CrossEntropyBackwardInputs,
  CrossEntropyBackwardOptions,
  CrossEntropyBackwardResult
> = synchronous('crossEntropyBackward');
