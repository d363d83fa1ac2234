// Tensors <-> their places in a call's header: [rank, dtype, dimensions...].
import { description } from './binding';
import { rangeError, show, typeError } from './errors';
import { deviceTensors } from './handles';
import type { DType } from './types';

/** Numbers per tensor in a header. @internal */
export const TENSOR = 2 + description.maxRank;
// The bytes of quantised weights are no tensors of the caller's: only the package makes tensors of them.
/** @internal */
export const DTYPES = ['f32', 'bf16', 'f16', 'i32', 'i64', 'i8', 'u8'];
const PUBLIC = DTYPES.slice(0, 5);
const ARRAYS: Record<string, string[]> = {
  Float32Array: ['f32'],
  Uint16Array: ['bf16', 'f16'],
  Float16Array: ['f16'],
  Int32Array: ['i32'],
  BigInt64Array: ['i64'],
  Int8Array: ['i8'],
  Uint8Array: ['u8'],
};
const typedArray = Object.getPrototypeOf(Uint8Array.prototype);
const arrayTag = Object.getOwnPropertyDescriptor(typedArray, Symbol.toStringTag)!.get!;
const lengthOf = Object.getOwnPropertyDescriptor(typedArray, 'length')!.get!;

/** The name of a typed array's type, of whatever realm; undefined for anything else. @internal */
export function arrayKind(data: unknown): string | undefined {
  return arrayTag.call(data);
}

/** Of a typed array, by the getter itself: 0 once it is detached. @internal */
export function arrayLength(array: unknown): number {
  return lengthOf.call(array) as number;
}

function arrayOf(dtype: unknown): string {
  return (
    Object.keys(ARRAYS).find((kind) => ARRAYS[kind].includes(dtype as string)) ?? 'Float32Array'
  );
}

function dtypeOf(operation: string, name: string, data: unknown, dtype: unknown): number {
  if (data instanceof Float32Array && (dtype === undefined || dtype === 'f32')) return 0;
  if (dtype !== undefined && !DTYPES.includes(dtype as string))
    throw typeError(operation, `${name}: expected dtype ${PUBLIC.join(', ')}, got ${show(dtype)}`);
  // The tag is read by the getter itself, so arrays of another realm count and look-alikes do not.
  const kind = arrayKind(data);
  const legal = kind === undefined ? undefined : ARRAYS[kind];
  if (!legal)
    throw typeError(operation, `${name}: expected data in a ${arrayOf(dtype)}, got ${show(data)}`);
  if (dtype === undefined) {
    if (legal.length > 1)
      throw typeError(
        operation,
        `${name}: expected dtype 'bf16' or 'f16' beside a ${kind}, got none`,
      );
    return DTYPES.indexOf(legal[0]);
  }
  if (!legal.includes(dtype as string))
    throw typeError(
      operation,
      `${name}: expected dtype ${legal.join(' or ')} beside a ${kind}, got ${show(dtype)}`,
    );
  return DTYPES.indexOf(dtype as string);
}

/** Writes a tensor's numbers into the header and returns its array, or its handle on a device. @internal */
export function writeTensor(
  operation: string,
  name: string,
  tensor: any,
  header: Float64Array,
  at: number,
): unknown {
  if (typeof tensor !== 'object' || tensor === null)
    throw typeError(operation, `${name}: expected a tensor {data, shape}, got ${show(tensor)}`);
  const data = tensor.data;
  const entry = data === undefined ? deviceTensors.get(tensor) : undefined;
  if (data === undefined && (arrayKind(tensor) || Array.isArray(tensor)))
    throw typeError(operation, `${name}: expected a tensor {data, shape}, got ${show(tensor)}`);
  if (entry) {
    header[at] = entry.shape.length;
    header[at + 1] = entry.dtype;
    header.set(entry.shape, at + 2);
    return entry.handle;
  }
  const shape = tensor.shape;
  header[at + 1] = dtypeOf(operation, name, data, tensor.dtype);
  if (!Array.isArray(shape))
    throw typeError(
      operation,
      `${name}: expected shape to be an array of numbers, got ${show(shape)}`,
    );
  const rank: unknown = shape.length; // a proxy may say anything
  if (typeof rank !== 'number' || !(rank >= 0) || !Number.isInteger(rank))
    throw typeError(operation, `${name}: expected shape to have a length, got ${show(rank)}`);
  if (rank > description.maxRank)
    throw rangeError(
      operation,
      `${name}: expected a shape of at most ${description.maxRank} dimensions, got ${rank}`,
    );
  for (let i = 0; i < rank; i++) {
    const d = shape[i];
    if (!Number.isSafeInteger(d) || d < 0) {
      const text = `${name}: expected a shape of non-negative integers, got ${show(d)} at ${i}`;
      throw typeof d === 'number' ? rangeError(operation, text) : typeError(operation, text);
    }
    header[at + 2 + i] = d;
  }
  header[at] = rank;
  return data;
}

/** Writes a bare index array as a tensor of rank 1 and returns it. @internal */
export function writeIndices(
  operation: string,
  name: string,
  array: unknown,
  dtypes: readonly string[],
  header: Float64Array,
  at: number,
): unknown {
  const kind = arrayKind(array);
  const legal = kind === undefined ? undefined : ARRAYS[kind];
  if (!legal || !dtypes.includes(legal[0])) {
    const wanted = dtypes.map((d) => (d === 'i64' ? 'a BigInt64Array' : 'an Int32Array'));
    throw typeError(operation, `${name}: expected ${wanted.join(' or ')}, got ${show(array)}`);
  }
  header[at] = 1;
  header[at + 1] = DTYPES.indexOf(legal[0]);
  header[at + 2] = arrayLength(array);
  return array;
}

/** @internal */
export function readDType(header: Float64Array, at: number): DType {
  return DTYPES[header[at + 1]] as DType;
}

/** @internal */
export function readShape(header: Float64Array, at: number): number[] {
  const rank = header[at];
  const shape: number[] = [];
  for (let i = 0; i < rank; i++) shape.push(header[at + 2 + i]);
  return shape;
}
