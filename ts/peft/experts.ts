// Factors of experts: files hold A as [E*r,in], expert by expert, and B as [out,r*E], the experts side by side.

import type { FloatTensor } from '../types';
import { kindOf } from './dtypes';

/** A typed array, as far as elements are moved about in it. */
type Elements = { [i: number]: number; readonly length: number };

/** A copy of `data`, its element i from `source(i)`. */
function permuted(data: Elements, source: (i: number) => number): Elements {
  const Kind = data.constructor as new (length: number) => Elements;
  const copy = new Kind(data.length);
  for (let i = 0; i < data.length; i++) copy[i] = data[source(i)];
  return copy;
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
  const data = permuted(b.data as unknown as Elements, (i) => {
    const [e, o, k] = [Math.floor(i / (out * r)), Math.floor(i / r) % out, i % r];
    return (o * r + k) * experts + e;
  });
  return { a: withShape(a, [experts, r, width]), b: withShape(b, [experts, out, r], data) };
}

/** What a file holds of `a [E,r,in]` and `b [E,out,r]`. @internal */
export function joinExperts(a: FloatTensor, b: FloatTensor): { a: FloatTensor; b: FloatTensor } {
  const [experts, r, width] = a.shape;
  const [, out] = b.shape;
  const data = permuted(b.data as unknown as Elements, (i) => {
    const [o, k, e] = [Math.floor(i / (r * experts)), Math.floor(i / experts) % r, i % experts];
    return (e * out + o) * r + k;
  });
  return { a: withShape(a, [experts * r, width]), b: withShape(b, [out, r * experts], data) };
}
