/**
 * Element types. Tensors are float32 (`'f32'`) throughout; index tensors are int32 (`'i32'`). The half-width types name
 * the meaning of a `Uint16Array`; no operation of this version computes with them.
 */
export type DType = 'f32' | 'bf16' | 'f16' | 'i32' | 'i64';

/**
 * A contiguous, row-major float32 tensor: any plain object with a flat `Float32Array` and a shape of at most six
 * dimensions whose product is the array's length. No class is required.
 */
export interface Tensor {
  readonly data: Float32Array;
  readonly shape: readonly number[];
  readonly dtype?: 'f32';
}

/** A contiguous tensor of int32 indices. Index arrays are copied before they are checked. */
export interface IndexTensor {
  readonly data: Int32Array;
  readonly shape: readonly number[];
  readonly dtype?: 'i32';
}

/** A tensor of 16-bit floats, carried as their bit patterns. */
export interface HalfTensor {
  readonly data: Uint16Array;
  readonly shape: readonly number[];
  readonly dtype: 'bf16' | 'f16';
}

/** What operations return: a fresh tensor, or the caller's own from `out`. */
export interface ResultTensor extends Tensor {
  readonly shape: number[];
  readonly dtype: 'f32';
}

/** The part of an `AbortSignal` that asynchronous calls use. */
export interface AbortSignalLike {
  readonly aborted: boolean;
  readonly reason?: unknown;
  addEventListener(type: 'abort', listener: () => void): void;
  removeEventListener(type: 'abort', listener: () => void): void;
}

/** Options that every asynchronous call takes. */
export interface AsyncOptions {
  /**
   * Aborts the call: it stops within a few tiles of work and its promise rejects with `signal.reason`. A `state` that
   * the call was advancing is then unusable until {@link RecurrentState.copyFrom}.
   */
  signal?: AbortSignalLike;
}

/** Options that every call takes. `Outputs` names what may be written into the caller's memory. */
export interface CallOptions<Outputs extends string = never> {
  /**
   * Tensors to write results into instead of new ones: right shape, float32, memory shared with no input and no other
   * output. A synchronous call writes them in place, an asynchronous one on completion (it rejects where an array has
   * been detached or resized meanwhile). Asynchronous calls that write the same memory must not overlap: await one before
   * the next.
   */
  out?: { readonly [name in Outputs]?: Tensor };
}

/** An operation that computes on the caller's thread and on the caller's memory. */
export type SyncOperation<Inputs, Options, Result> =
  Record<never, never> extends Options
    ? (inputs: Inputs, options?: Options) => Result
    : (inputs: Inputs, options: Options) => Result;

/** An operation that copies its inputs at the call and computes on the engine's own threads. */
export type AsyncOperation<Inputs, Options, Result> =
  Record<never, never> extends Options
    ? (inputs: Inputs, options?: Options & AsyncOptions) => Promise<Result>
    : (inputs: Inputs, options: Options & AsyncOptions) => Promise<Result>;
