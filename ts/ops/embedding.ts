import { asynchronous, synchronous } from '../marshal';
import type {
  AsyncOperation,
  CallOptions,
  IndexTensor,
  ResultTensor,
  SyncOperation,
  Tensor,
} from '../types';

/** Inputs of {@link embedding}. */
export interface EmbeddingInputs {
  /** `[...]`: row numbers, 0 to rows - 1 */
  ids: IndexTensor;
  /** `[rows,D]` */
  weight: Tensor;
}

/** Options of {@link embedding}. */
export interface EmbeddingOptions extends CallOptions<'y'> {}

/** What {@link embedding} returns. */
export interface EmbeddingResult {
  /** `[...,D]` */
  y: ResultTensor;
}

/** Inputs of {@link embeddingBackward}. */
export interface EmbeddingBackwardInputs {
  /** As in the forward. */
  ids: IndexTensor;
  /** Gradient of y, `[...,D]`. */
  dY: Tensor;
}

/** Options of {@link embeddingBackward}. */
export interface EmbeddingBackwardOptions extends CallOptions<'dWeight'> {
  /** Rows of the weight. */
  numEmbeddings: number;
}

/** What {@link embeddingBackward} returns. */
export interface EmbeddingBackwardResult {
  /** `[numEmbeddings,D]` */
  dWeight: ResultTensor;
}

/**
 * Rows of a table: `y[...,:] = weight[ids[...],:]`, float32, ids int32.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value or an id out of range
 */
export const embedding: AsyncOperation<EmbeddingInputs, EmbeddingOptions, EmbeddingResult> =
  asynchronous('embedding');

/**
 * {@link embedding} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const embeddingSync: SyncOperation<EmbeddingInputs, EmbeddingOptions, EmbeddingResult> =
  synchronous('embedding');

/**
 * Gradient of {@link embedding} with respect to weight: rows of dY added up by id, in the order of the ids.
 * @throws (rejects) as {@link embedding}
 */
export const embeddingBackward: AsyncOperation<
  EmbeddingBackwardInputs,
  EmbeddingBackwardOptions,
  EmbeddingBackwardResult
> = asynchronous('embeddingBackward');

/**
 * {@link embeddingBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const embeddingBackwardSync: SyncOperation<
  EmbeddingBackwardInputs,
  EmbeddingBackwardOptions,
  EmbeddingBackwardResult
> = synchronous('embeddingBackward');
