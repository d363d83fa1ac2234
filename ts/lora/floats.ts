// Elements of float tensors as float32.
import { typeError } from '../errors';
import { arrayKind } from '../header';
import type { FloatTensor } from '../types';

const words = new Uint32Array(1);
const float = new Float32Array(words.buffer);

function fromBf16(bits: number): number {
  words[0] = bits << 16;
  return float[0];
}

function fromF16(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return exponent ? sign * (1024 + fraction) * 2 ** (exponent - 25) : sign * fraction * 2 ** -24;
}

/** A copy in float32. @internal */
export function floatsOf(operation: string, name: string, tensor: FloatTensor): Float32Array {
  const { data, dtype } = tensor as { data: ArrayLike<number>; dtype?: string };
  const kind = arrayKind(data);
  // Constructors read what an array holds; from() would ask it for an iterator, which may be the caller's own.
  if (kind === 'Float32Array' || kind === 'Float16Array') return new Float32Array(data);
  if (kind === 'Uint16Array' && (dtype === 'bf16' || dtype === 'f16'))
    return Float32Array.from(new Uint16Array(data), dtype === 'bf16' ? fromBf16 : fromF16);
  throw typeError(operation, `${name}: expected a tensor of dtype f32, bf16 or f16`);
}
