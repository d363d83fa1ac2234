// Element types of .safetensors files.
import { endianness } from 'node:os';
import { arrayKind } from '../header';

/** The typed array of each element type that a file can hold. Those without one of their own come as bit patterns. */
export interface StoredArrays {
  bool: Uint8Array;
  u8: Uint8Array;
  i8: Int8Array;
  f8_e5m2: Uint8Array;
  f8_e4m3: Uint8Array;
  f8_e8m0: Uint8Array;
  f8_e4m3fnuz: Uint8Array;
  f8_e5m2fnuz: Uint8Array;
  i16: Int16Array;
  u16: Uint16Array;
  f16: Uint16Array;
  bf16: Uint16Array;
  i32: Int32Array;
  u32: Uint32Array;
  f32: Float32Array;
  f64: Float64Array;
  i64: BigInt64Array;
  u64: BigUint64Array;
}

/** Element types of stored tensors: those of {@link DType}, and those that operations do not take. */
export type StoredDType = keyof StoredArrays;

/** A tensor as a file holds it, in memory of its own. Of dtype f32, bf16, f16, i32 it is what operations take. */
export type StoredTensor<D extends StoredDType = StoredDType> = D extends StoredDType
  ? { readonly data: StoredArrays[D]; readonly shape: number[]; readonly dtype: D }
  : never;

type Constructor = {
  new (buffer: ArrayBuffer): StoredArrays[StoredDType];
  readonly BYTES_PER_ELEMENT: number;
  readonly name: string;
};

/** @internal */
export interface StoredKind {
  dtype: StoredDType;
  /** As headers spell it. */
  name: string;
  bytes: number;
  array: Constructor;
  /** Files hold the tensors of a higher order first, so that each is aligned to its elements. */
  order: number;
}

// In the order of the format's own writer.
const ARRAYS: Record<StoredDType, Constructor> = {
  bool: Uint8Array,
  u8: Uint8Array,
  i8: Int8Array,
  f8_e5m2: Uint8Array,
  f8_e4m3: Uint8Array,
  f8_e8m0: Uint8Array,
  f8_e4m3fnuz: Uint8Array,
  f8_e5m2fnuz: Uint8Array,
  i16: Int16Array,
  u16: Uint16Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  i32: Int32Array,
  u32: Uint32Array,
  f32: Float32Array,
  f64: Float64Array,
  i64: BigInt64Array,
  u64: BigUint64Array,
};

const KINDS: StoredKind[] = Object.entries(ARRAYS).map(([dtype, array], order) => ({
  dtype: dtype as StoredDType,
  name: dtype.toUpperCase(),
  bytes: array.BYTES_PER_ELEMENT,
  array,
  order,
}));
const BY_NAME = new Map(KINDS.map((kind) => [kind.name, kind]));
const BY_DTYPE = new Map<unknown, StoredKind>(KINDS.map((kind) => [kind.dtype, kind]));
/** What an array without a dtype beside it holds. */
const DEFAULTS: Record<string, StoredDType> = {
  Uint8Array: 'u8',
  Int8Array: 'i8',
  Int16Array: 'i16',
  Float16Array: 'f16',
  Int32Array: 'i32',
  Uint32Array: 'u32',
  Float32Array: 'f32',
  Float64Array: 'f64',
  BigInt64Array: 'i64',
  BigUint64Array: 'u64',
};

/** @internal */
export const STORED_NAMES = KINDS.map(({ name }) => name).join(', ');

/** The kind that a header calls by this name. @internal */
export function kindNamed(name: string): StoredKind | undefined {
  return BY_NAME.get(name);
}

/** The kind of an array and the dtype beside it, undefined where they do not fit together. @internal */
export function kindOf(data: unknown, dtype: unknown): StoredKind | undefined {
  const array = arrayKind(data);
  if (array === undefined) return undefined;
  const kind = BY_DTYPE.get(dtype ?? DEFAULTS[array]);
  if (!kind) return undefined;
  return kind.array.name === array || (kind.dtype === 'f16' && array === 'Float16Array')
    ? kind
    : undefined;
}

const BIG_ENDIAN = endianness() === 'BE';

/** Each element's bytes the other way round. @internal */
export function reverseElements(bytes: Uint8Array, size: number): void {
  for (let at = 0; at < bytes.length; at += size) bytes.subarray(at, at + size).reverse();
}

/** Bytes of a file as this machine's numbers, in place. @internal */
export function fromFileOrder(bytes: Uint8Array, kind: StoredKind): void {
  if (BIG_ENDIAN) reverseElements(bytes, kind.bytes);
}

/** This machine's numbers as the bytes of a file: a view of them, or a copy where the order differs. @internal */
export function inFileOrder(data: ArrayBufferView, kind: StoredKind): Uint8Array {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  if (!BIG_ENDIAN) return bytes;
  const copy = bytes.slice();
  reverseElements(copy, kind.bytes);
  return copy;
}
