import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, IndexTensor, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** y and dY have weight's dtype. */
type Dtypes = { lead: 'weight' | 'dY'; same: 'y' | 'dWeight'; either: never };

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
export interface EmbeddingBackwardOptions extends GradientOption, CallOptions<'dWeight'> {
  /** Rows of the weight. */
  numEmbeddings: number;
}

/** What {@link embeddingBackward} returns. */
export interface EmbeddingBackwardResult {
  /** `[numEmbeddings,D]` */
  dWeight: ResultTensor;
}

/**
 * Rows of a table: `y[...,:] = weight[ids[...],:]`, of weight's dtype, ids int32.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value or an id out of range
 */
export const embedding: AsyncLayer<Dtypes, EmbeddingInputs, EmbeddingOptions, EmbeddingResult> =
  asynchronous('embedding');

/**
 * {@link embedding} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const embeddingSync: SyncLayer<Dtypes, EmbeddingInputs, EmbeddingOptions, EmbeddingResult> =
  synchronous('embedding');

/**
 * Gradient of {@link embedding} with respect to weight: rows of dY added up by id, in the order of the ids.
 * @throws (rejects) as {@link embedding}
 */
export const embeddingBackward: AsyncLayerBackward<
  Dtypes,
  EmbeddingBackwardInputs,
  EmbeddingBackwardOptions,
  EmbeddingBackwardResult
> = asynchronous('embeddingBackward');

/**
 * {@link embeddingBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const embeddingBackwardSync: SyncLayerBackward<
  Dtypes,
  EmbeddingBackwardInputs,
  EmbeddingBackwardOptions,
  EmbeddingBackwardResult
> = synchronous('embeddingBackward');
