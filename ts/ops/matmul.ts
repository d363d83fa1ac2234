import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** a, b, y and dY have one dtype; bias has it too or is float32. Sums are float32. */
type Dtypes = { lead: 'a'; same: 'b' | 'y' | 'dY' | 'da' | 'db' | 'dBias'; either: 'bias' };

/** Inputs of {@link matmul}. */
export interface MatmulInputs {
  /** `[...,M,K]`, or `[...,K,M]` with `transposeA` */
  a: Tensor;
  /** `[...,K,N]`, or `[...,N,K]` with `transposeB` */
  b: Tensor;
  /** `[N]`, added to every row */
  bias?: Tensor;
}

/** Which factors are stored transposed, and how they are multiplied. */
export interface MatmulTransposes {
  /** a is `[...,K,M]`; default false */
  transposeA?: boolean;
  /** b is `[...,N,K]`; default false */
  transposeB?: boolean;
  /**
   * Precision of the products; default `'f32'`. `'bf16'` rounds both factors to bfloat16 first and adds in float32, on
   * processors with AVX512-BF16; RangeError elsewhere. How a product is cut, and so the last bits of a row, depends on
   * the sizes, the number of rows included; with `'bf16'` subnormal factors count as zero from nine rows on.
   */
  compute?: 'f32' | 'bf16';
}

/** Options of {@link matmul}. */
export interface MatmulOptions extends MatmulTransposes, CallOptions<'y'> {}

/** What {@link matmul} returns. */
export interface MatmulResult {
  /** `[...,M,N]` */
  y: ResultTensor;
}

/** Inputs of {@link matmulBackward}. */
export interface MatmulBackwardInputs {
  /** As in the forward. */
  a: Tensor;
  /** As in the forward. */
  b: Tensor;
  /** Gradient of y, `[...,M,N]`. */
  dY: Tensor;
}

/** Options of {@link matmulBackward}. */
export interface MatmulBackwardOptions
  extends GradientOption,
    MatmulTransposes,
    CallOptions<'da' | 'db' | 'dBias'> {
  /** Return dBias too; default false. */
  withBias?: boolean;
}

/** What {@link matmulBackward} returns. */
export interface MatmulBackwardResult {
  /** Shape of a, summed over the batch where a was shared. */
  da: ResultTensor;
  /** Shape of b, summed over the batch where b was shared. */
  db: ResultTensor;
  /** `[N]`, with `withBias`; with gradDtype `'input'` in the dtype of a */
  dBias?: ResultTensor;
}

/**
 * Matrix product `y = op(a) op(b) + bias`, batched over equal leading dimensions. A factor of rank 2 is shared by the
 * whole batch. a and b have one dtype, and y has it too; bias has it or is float32. Sums are float32.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value
 */
export const matmul: AsyncLayer<Dtypes, MatmulInputs, MatmulOptions, MatmulResult> =
  asynchronous('matmul');

/**
 * {@link matmul} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const matmulSync: SyncLayer<Dtypes, MatmulInputs, MatmulOptions, MatmulResult> =
  synchronous('matmul');

/**
 * Gradients of {@link matmul} from dY `[...,M,N]`: da, db, and with `withBias` dBias. Sums are added in an order fixed by
 * shape.
 * @throws (rejects) as {@link matmul}
 */
export const matmulBackward: AsyncLayerBackward<
  Dtypes,
  MatmulBackwardInputs,
  MatmulBackwardOptions,
  MatmulBackwardResult
> = asynchronous('matmulBackward');

/**
 * {@link matmulBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const matmulBackwardSync: SyncLayerBackward<
  Dtypes,
  MatmulBackwardInputs,
  MatmulBackwardOptions,
  MatmulBackwardResult
> = synchronous('matmulBackward');
