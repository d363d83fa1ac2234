import { rangeError, show, typeError } from './errors';
import type { DType, HalfDType, HalfTensor, IndexTensor, Tensor } from './types';

type Data = Float32Array | Int32Array | Uint16Array | readonly number[];

/**
 * A tensor from an array and a shape, checked. A convenience only: operations take any object `{data, shape}`.
 *
 * @param data a typed array, used as it is, or plain numbers, copied into a Float32Array (an Int32Array for `'i32'`)
 * @param shape non-negative integers whose product is the number of elements
 * @param dtype default `'f32'` for numbers and Float32Array, `'i32'` for Int32Array; required beside a Uint16Array
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
export function tensor(data: Data, shape: readonly number[], dtype?: DType): unknown {
  const kind: DType = dtype ?? (data instanceof Int32Array ? 'i32' : 'f32');
  const array = convert(data, kind);
  if (!Array.isArray(shape))
    throw typeError('tensor', `shape: expected an array of numbers, got ${show(shape)}`);
  let size = 1;
  for (const d of shape) {
    if (!Number.isSafeInteger(d) || d < 0)
      throw rangeError('tensor', `shape: expected non-negative integers, got ${show(d)}`);
    size *= d;
  }
  if (size !== array.length)
    throw rangeError(
      'tensor',
      `data: expected length ${size} for shape [${shape}], got ${array.length}`,
    );
  return { data: array, shape: [...shape], dtype: kind };
}

function convert(data: Data, dtype: DType): Float32Array | Int32Array | Uint16Array {
  if (Array.isArray(data)) {
    const bad = data.findIndex((x) => typeof x !== 'number');
    if (bad >= 0)
      throw typeError('tensor', `data: expected numbers, got ${show(data[bad])} at ${bad}`);
    if (dtype === 'f32') return Float32Array.from(data);
    if (dtype === 'i32') {
      const wrong = data.findIndex((x) => (x | 0) !== x);
      if (wrong >= 0)
        throw rangeError(
          'tensor',
          `data: expected 32-bit integers, got ${show(data[wrong])} at ${wrong}`,
        );
      return Int32Array.from(data);
    }
    throw typeError(
      'tensor',
      `dtype: expected 'f32' or 'i32' for plain numbers, got ${show(dtype)}`,
    );
  }
  if (data instanceof Float32Array && dtype === 'f32') return data;
  if (data instanceof Int32Array && dtype === 'i32') return data;
  if (data instanceof Uint16Array && (dtype === 'bf16' || dtype === 'f16')) return data;
  throw typeError(
    'tensor',
    `data: expected numbers, a Float32Array (f32), an Int32Array (i32) or a Uint16Array (bf16, f16), ` +
      `got ${show(data)} with dtype ${show(dtype)}`,
  );
}
