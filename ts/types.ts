/**
 * Element types: float32, bfloat16, IEEE half precision, and the integers of index tensors. Arithmetic is float32
 * whatever the inputs' type, unless `compute: 'bf16'` is asked for.
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

/**
 * A tensor of 16-bit floats: their bit patterns in a `Uint16Array`, or, for `'f16'` where the runtime has it, a
 * `Float16Array`.
 */
export interface HalfTensor {
  readonly data: Uint16Array | Float16ArrayLike;
  readonly shape: readonly number[];
  readonly dtype?: 'bf16' | 'f16';
}

/** A `Float16Array`, by the parts that tell it from other typed arrays. */
export interface Float16ArrayLike {
  readonly [Symbol.toStringTag]: 'Float16Array';
  readonly buffer: ArrayBufferLike;
  readonly byteOffset: number;
  readonly byteLength: number;
  readonly length: number;
}

/** A tensor of any of the float types. */
export type FloatTensor = Tensor | HalfTensor;

/** A contiguous tensor of int32 indices. Index arrays are copied before they are checked. */
export interface IndexTensor {
  readonly data: Int32Array;
  readonly shape: readonly number[];
  readonly dtype?: 'i32';
}

/** What operations return: a fresh tensor, or the caller's own from `out`. */
export interface ResultTensor extends Tensor {
  readonly shape: number[];
  readonly dtype: 'f32';
}

/** A result in a half-width type: bit patterns, or a `Float16Array` where an input was one. */
export interface HalfResultTensor extends HalfTensor {
  readonly shape: number[];
  readonly dtype: 'bf16' | 'f16';
}

/** Bare indices, as options take them. They are copied before they are checked. */
export type IndexArray = Int32Array | BigInt64Array;

/** `T` with the tensors named `Halves` in a half-width type and those named `Either` in that one or float32. */
export type HalfInputs<T, Halves extends string, Either extends string = never> = {
  [P in keyof T]: P extends Halves
    ? HalfTensor | Exclude<T[P], Tensor>
    : P extends Either
      ? FloatTensor | Exclude<T[P], Tensor>
      : T[P];
};

/** `T` with the results named `Halves` in a half-width type. */
export type HalfResults<T, Halves extends string> = {
  [P in keyof T]: P extends Halves ? HalfResultTensor | Exclude<T[P], ResultTensor> : T[P];
};

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
   * Tensors to write results into instead of new ones: right shape and dtype, memory shared with no input and no other
   * output. A synchronous call writes them in place, an asynchronous one on completion (it rejects where an array has
   * been detached or resized meanwhile). Asynchronous calls that write the same memory must not overlap: await one before
   * the next.
   */
  out?: { readonly [name in Outputs]?: FloatTensor };
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
