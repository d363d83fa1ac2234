/**
 * bf16 and f16 as bit patterns in a Uint16Array: rounding from float64 to nearest, ties to even, and
 * back, which is exact. Beyond the largest finite value is Infinity; a NaN becomes the quiet one.
 */

import type { Tensor32, TensorLike } from './tensor.ts';

export type HalfDtype = 'bf16' | 'f16';
export type FloatDtype = 'f32' | HalfDtype;

export const halfDtypes: readonly HalfDtype[] = ['bf16', 'f16'];

export interface HalfTensor {
  data: Uint16Array;
  shape: number[];
  dtype: HalfDtype;
}

interface Format {
  mantissaBits: number;
  /** Of the smallest normal number. */
  minExponent: number;
  infinity: number;
  nan: number;
}

const formats: Record<HalfDtype, Format> = {
  bf16: { mantissaBits: 7, minExponent: -126, infinity: 0x7f80, nan: 0x7fc0 },
  f16: { mantissaBits: 10, minExponent: -14, infinity: 0x7c00, nan: 0x7e00 },
};

const SIGN = 0x8000;

export function toBits(dtype: HalfDtype, x: number): number {
  const { mantissaBits, minExponent, infinity, nan } = formats[dtype];
  if (Number.isNaN(x)) return nan;
  const sign = x < 0 || Object.is(x, -0) ? SIGN : 0;
  const exponent = Math.max(exponentOf(x), minExponent);
  const units = roundToEven(Math.abs(x) / 2 ** (exponent - mantissaBits));
  // The leading one of a normal number carries into the exponent field; a subnormal has none.
  const bits = units + (exponent - minExponent) * 2 ** mantissaBits;
  return sign | Math.min(bits, infinity);
}

export function fromBits(dtype: HalfDtype, bits: number): number {
  const { mantissaBits, minExponent, infinity } = formats[dtype];
  const sign = bits & SIGN ? -1 : 1;
  const magnitude = bits & ~SIGN;
  if (magnitude > infinity) return NaN;
  if (magnitude === infinity) return sign * Infinity;
  const exponent = Math.max((magnitude >> mantissaBits) - 1, 0);
  const units = magnitude - exponent * 2 ** mantissaBits;
  return sign * units * 2 ** (exponent + minExponent - mantissaBits);
}

/** The nearest number that the dtype holds. */
export function round(dtype: FloatDtype, x: number): number {
  return dtype === 'f32' ? Math.fround(x) : fromBits(dtype, toBits(dtype, x));
}

/** A tensor of the dtype, rounded to it. */
export function encode(dtype: FloatDtype, { data, shape }: TensorLike): Tensor32 | HalfTensor {
  if (dtype === 'f32') return { data: Float32Array.from(data), shape: [...shape] };
  return { data: Uint16Array.from(data, (x) => toBits(dtype, x)), shape: [...shape], dtype };
}

/** The values of a tensor of any dtype as float32, which holds them all. */
export function decode(tensor: {
  data: ArrayLike<number>;
  shape: readonly number[];
  dtype?: string;
}): Tensor32 {
  const { data, shape, dtype } = tensor;
  const half = data instanceof Uint16Array && (dtype === 'bf16' || dtype === 'f16');
  const values = half
    ? Float32Array.from(data, (bits) => fromBits(dtype, bits))
    : Float32Array.from(data);
  return { data: values, shape: [...shape] };
}

/** A tensor whose elements are all NaN, so that one never written shows. */
export function unwritten(dtype: FloatDtype, shape: readonly number[]): Tensor32 | HalfTensor {
  const size = shape.reduce((product, extent) => product * extent, 1);
  return encode(dtype, { data: new Float32Array(size).fill(NaN), shape });
}

const view = new DataView(new ArrayBuffer(8));

/** floor(log2 |x|); of zeros and of float64's subnormals less than any format here asks for. */
function exponentOf(x: number): number {
  view.setFloat64(0, x);
  return ((view.getUint16(0) >> 4) & 0x7ff) - 1023;
}

function roundToEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}
