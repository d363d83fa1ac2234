import { rangeError, show, typeError } from './errors';
import { arrayKind } from './header';
import type { DType, Float16ArrayLike, HalfDType, HalfTensor, IndexTensor, Tensor } from './types';

type Data = Float32Array | Int32Array | Uint16Array | Float16ArrayLike | readonly number[];

/**
 * A tensor from an array and a shape, checked. A convenience only: operations take any object `{data, shape}`.
 *
 * @param data a typed array, used as it is, or plain numbers, copied into a Float32Array (an Int32Array for `'i32'`)
 * @param shape non-negative integers whose product is the number of elements
 * @param dtype default `'f32'` for numbers and Float32Array, `'i32'` for Int32Array, `'f16'` for Float16Array; required
 * beside a Uint16Array
 * @throws TypeError for another kind of array or a dtype that does not fit it, RangeError for a shape that does not
 *
 * @example
 * const q = tensor(new Float32Array(2 * 8 * 4 * 64), [2, 8, 4, 64]);
 * const ids = tensor([3, 1, 2], [3], 'i32');
 */
export function tensor(
  data: Float32Array | readonly number[],
  shape: readonly number[],
  dtype?: 'f32',
): Tensor;
export function tensor(data: Int32Array, shape: readonly number[], dtype?: 'i32'): IndexTensor;
export function tensor(
  data: readonly number[],
  shape: readonly number[],
  dtype: 'i32',
): IndexTensor;
export function tensor<D extends HalfDType>(
  data: Uint16Array,
  shape: readonly number[],
  dtype: D,
): HalfTensor<D> & { readonly data: Uint16Array };
export function tensor(
  data: Float16ArrayLike,
  shape: readonly number[],
  dtype?: 'f16',
): HalfTensor<'f16'>;
export function tensor(data: Data, shape: readonly number[], dtype?: DType): unknown {
  const kind = dtype ?? DEFAULTS[arrayKind(data) ?? ''] ?? 'f32';
  if (dtype === undefined && arrayKind(data) === 'Uint16Array')
    throw typeError('tensor', "dtype: expected 'bf16' or 'f16' beside a Uint16Array, got none");
  const array = convert(data, kind);
  const dimensions = copyShape(shape);
  const size = dimensions.includes(0) ? 0 : dimensions.reduce((a, b) => a * b, 1);
  if (size !== array.length)
    throw rangeError(
      'tensor',
      `data: expected length ${size} for shape [${dimensions}], got ${array.length}`,
    );
  return { data: array, shape: dimensions, dtype: kind };
}

/** Each number is read once, and what is checked is what is kept. */
function copyShape(shape: readonly unknown[]): number[] {
  if (!Array.isArray(shape))
    throw typeError('tensor', `shape: expected an array of numbers, got ${show(shape)}`);
  const dimensions: number[] = [];
  for (let i = 0, rank = lengthOf('shape', shape); i < rank; i++) {
    const d: unknown = shape[i];
    if (!Number.isSafeInteger(d) || (d as number) < 0)
      throw rangeError('tensor', `shape: expected non-negative integers, got ${show(d)}`);
    dimensions.push((d as number) + 0); // no -0
  }
  return dimensions;
}

/** A proxy of an array may say anything. */
function lengthOf(name: string, array: readonly unknown[]): number {
  const { length } = array;
  if (typeof length !== 'number' || !(length >= 0 && length < 2 ** 32) || !Number.isInteger(length))
    throw typeError('tensor', `${name}: expected an array of some length, got ${show(length)}`);
  return length;
}

const DEFAULTS: Record<string, DType> = { Int32Array: 'i32', Float16Array: 'f16' };

type TypedArray = Exclude<Data, readonly number[]>;

function convert(data: Data, dtype: DType): TypedArray {
  if (Array.isArray(data)) {
    if (dtype !== 'f32' && dtype !== 'i32')
      throw typeError(
        'tensor',
        `dtype: expected 'f32' or 'i32' for plain numbers, got ${show(dtype)}`,
      );
    const numbers = copyNumbers(data, dtype);
    return dtype === 'f32' ? Float32Array.from(numbers) : Int32Array.from(numbers);
  }
  const kind = arrayKind(data);
  const good =
    (kind === 'Float32Array' && dtype === 'f32') ||
    (kind === 'Int32Array' && dtype === 'i32') ||
    (kind === 'Uint16Array' && (dtype === 'bf16' || dtype === 'f16')) ||
    (kind === 'Float16Array' && dtype === 'f16');
  if (good) return data as TypedArray;
  throw typeError(
    'tensor',
    `data: expected numbers, a Float32Array (f32), an Int32Array (i32), a Uint16Array (bf16, f16) or a Float16Array (f16), ` +
      `got ${show(data)} with dtype ${show(dtype)}`,
  );
}

function copyNumbers(data: readonly unknown[], dtype: 'f32' | 'i32'): number[] {
  const numbers: number[] = [];
  for (let i = 0, length = lengthOf('data', data); i < length; i++) {
    const x = data[i];
    if (typeof x !== 'number')
      throw typeError('tensor', `data: expected numbers, got ${show(x)} at ${i}`);
    if (dtype === 'i32' && (x | 0) !== x)
      throw rangeError('tensor', `data: expected 32-bit integers, got ${show(x)} at ${i}`);
    numbers.push(x);
  }
  return numbers;
}
