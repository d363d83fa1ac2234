// Factors of experts: files hold A as [E*r,in], expert by expert, and B as [out,r*E], an element's experts side by side.
import type { FloatTensor } from '../types';
import { kindOf } from './dtypes';

type Buffered = {
  readonly buffer: ArrayBufferLike;
  readonly byteOffset: number;
  readonly length: number;
  readonly constructor: unknown;
};

/** The transpose of a matrix, moved as bits: arithmetic would not keep those of every NaN. */
function transposed(tensor: FloatTensor, rows: number, columns: number): unknown {
  const data = tensor.data as unknown as Buffered;
  const Bits = kindOf(data, tensor.dtype)!.bytes === 4 ? Uint32Array : Uint16Array;
  const from = new Bits(data.buffer as ArrayBuffer, data.byteOffset, data.length);
  const to = new Bits(data.length);
  for (let i = 0, at = 0; i < rows; i++)
    for (let j = 0; j < columns; j++, at++) to[j * rows + i] = from[at];
  return new (data.constructor as new (buffer: ArrayBufferLike) => unknown)(to.buffer);
}

function withShape(tensor: FloatTensor, shape: number[], data: unknown = tensor.data): FloatTensor {
  const { dtype } = kindOf(tensor.data, tensor.dtype)!;
  return { data, shape, dtype } as FloatTensor;
}

/** `a [E,r,in]` and `b [E,out,r]` of what a file holds. @internal */
export function splitExperts(
  a: FloatTensor,
  b: FloatTensor,
  experts: number,
  r: number,
): { a: FloatTensor; b: FloatTensor } {
  const [, width] = a.shape;
  const [out] = b.shape;
  const data = transposed(b, out * r, experts);
  return { a: withShape(a, [experts, r, width]), b: withShape(b, [experts, out, r], data) };
}

/** What a file holds of `a [E,r,in]` and `b [E,out,r]`. @internal */
export function joinExperts(a: FloatTensor, b: FloatTensor): { a: FloatTensor; b: FloatTensor } {
  const [experts, r, width] = a.shape;
  const [, out] = b.shape;
  const data = transposed(b, experts, out * r);
  return { a: withShape(a, [experts * r, width]), b: withShape(b, [out, r * experts], data) };
}
