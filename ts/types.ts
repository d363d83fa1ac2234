import type { DeviceTensor } from './device';

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

/** The 16-bit float types. */
export type HalfDType = 'bf16' | 'f16';

/**
 * A tensor of 16-bit floats: their bit patterns in a `Uint16Array`, with a `dtype` that says which, or, for `'f16'`
 * where the runtime has it, a `Float16Array`.
 */
export type HalfTensor<D extends HalfDType = HalfDType> = D extends HalfDType
  ?
      | { readonly data: Uint16Array; readonly shape: readonly number[]; readonly dtype: D }
      | ('f16' extends D ? Float16Tensor : never)
  : never;

/** An IEEE half-precision tensor in a `Float16Array`. */
export interface Float16Tensor {
  readonly data: Float16ArrayLike;
  readonly shape: readonly number[];
  readonly dtype?: 'f16';
}

/** A `Float16Array`, by the parts that tell it from other typed arrays. */
export interface Float16ArrayLike {
  readonly [Symbol.toStringTag]: 'Float16Array';
  readonly buffer: ArrayBufferLike;
  readonly byteOffset: number;
  readonly byteLength: number;
  readonly length: number;
}

/** The float types. */
export type FloatDType = 'f32' | HalfDType;

/** A tensor of any of the float types. */
export type FloatTensor = Tensor | HalfTensor;

/** A tensor of any of the float types, on the CPU or on a device. */
export type AnyTensor = FloatTensor | DeviceTensor;

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

/** A result in a half-width type: bit patterns, or, for `'f16'`, a `Float16Array` where an input was one. */
export type HalfResultTensor<D extends HalfDType = HalfDType> = HalfTensor<D> & {
  readonly shape: number[];
  readonly dtype: D;
};

/** The dtype of a float tensor of type `T`. */
export type DTypeOf<T extends AnyTensor> = 0 extends 1 & T
  ? 'f32' // of `any`
  : T extends DeviceTensor<infer D>
    ? D
    : DTypeOfHost<T>;

type DTypeOfHost<T> = T extends Tensor
  ? 'f32'
  : T extends Float16Tensor
    ? 'f16'
    : T extends { dtype: infer D extends HalfDType }
      ? D
      : never;

/** A tensor of dtype `D`. */
export type TensorOf<D extends FloatDType> = D extends HalfDType ? HalfTensor<D> : Tensor;

/** A result of dtype `D`. */
export type ResultOf<D extends FloatDType> = D extends HalfDType
  ? HalfResultTensor<D>
  : ResultTensor;

/** A tensor of dtype `D` that is where a `Q` is. */
export type TensorBeside<Q, D extends FloatDType> = Q extends DeviceTensor
  ? DeviceTensor<D>
  : TensorOf<D>;

/** A result of dtype `D` of a call whose tensors are where a `Q` is. */
export type ResultBeside<Q, D extends FloatDType> = 0 extends 1 & Q
  ? ResultOf<D>
  : Q extends DeviceTensor
    ? DeviceTensor<D>
    : ResultOf<D>;

/** What stands for a `T` in a call whose tensors are where a `Q` is: its float32 tensors are there too. */
export type Beside<T, Q> = 0 extends 1 & T
  ? T
  : T extends ResultTensor
    ? ResultBeside<Q, 'f32'>
    : T extends Tensor
      ? TensorBeside<Q, 'f32'>
      : T;

/** Results by dtype. */
export interface ResultsByDType {
  f32: ResultTensor;
  bf16: HalfResultTensor<'bf16'>;
  f16: HalfResultTensor<'f16'>;
}

/** Bare indices, as options take them. They are copied before they are checked. */
export type IndexArray = Int32Array | BigInt64Array;

/** The part of an `AbortSignal` that asynchronous calls use. */
export interface AbortSignalLike {
  readonly aborted: boolean;
  readonly reason?: unknown;
  /** Calls `listener` when the signal aborts. */
  addEventListener(type: 'abort', listener: () => void): void;
  /** Undoes `addEventListener`. */
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
  out?: { readonly [name in Outputs]?: AnyTensor };
}

/**
 * The last parameter of an operation: its options, which may be left out where none of them is required. `More` are
 * options that never are.
 */
export type OptionsArgument<Options, More = unknown> =
  Record<never, never> extends Options ? [options?: Options & More] : [options: Options & More];

/**
 * Options that ask for results, and the results: with `true` they are there. An operation has at most one of each of the
 * two lists.
 */
export interface AskedFirst {
  outputFinalState: 'finalState' | 'finalW' | 'finalB';
  outputLse: 'lse';
  outputSolution: 'solution';
  withBias: 'dBias';
}

/** See {@link AskedFirst}. */
export interface AskedSecond {
  saveForBackward: 'saved';
  outputResidual: 'residual';
}

/** Those of `Options` that stand in the two lists, with the values of a call. */
export type Asking<Options, First extends boolean, Second extends boolean> = {
  [P in keyof Options & keyof AskedFirst]?: First;
} & { [P in keyof Options & keyof AskedSecond]?: Second };

type Certain<Result, Names, Options, Asked extends boolean> = [Asked] extends [true]
  ? { [P in keyof Result & Names[keyof Options & keyof Names]]-?: Exclude<Result[P], undefined> }
  : unknown;

/** `Result` of a call with `Options`, certain in what these ask for. */
export type Answered<Result, Options, First extends boolean, Second extends boolean> = Result &
  Certain<Result, AskedFirst, Options, First> &
  Certain<Result, AskedSecond, Options, Second>;

/** An operation that computes on the caller's thread and on the caller's memory. */
export type SyncOperation<Inputs, Options, Result> = (
  inputs: Inputs,
  ...options: OptionsArgument<Options>
) => Result;

/** An operation that copies its inputs at the call and computes on the engine's own threads. */
export type AsyncOperation<Inputs, Options, Result> = (
  inputs: Inputs,
  ...options: OptionsArgument<Options, AsyncOptions>
) => Promise<Result>;
