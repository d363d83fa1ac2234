/**
 * bf16 and f16 as bit patterns in a Uint16Array: rounding from float64 to nearest, ties to even, and
 * back, which is exact. Beyond the largest finite value is Infinity; a NaN becomes the quiet one.
 */

import type { Tensor32, TensorLike } from './tensor.ts';
import { sizeOf } from './tensor.ts';

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
  const units = roundToEven(Math.abs(x) / powerOfTwo(exponent - mantissaBits));
  // The leading one of a normal number carries into the exponent field; a subnormal has none.
  const bits = units + (exponent - minExponent) * 2 ** mantissaBits;
  return sign | Math.min(bits, infinity);
}

export function fromBits(dtype: HalfDtype, bits: number): number {
  return tableOf(dtype)[bits];
}

const tables: Partial<Record<HalfDtype, Float64Array>> = {};

/** The values of all bit patterns. */
function tableOf(dtype: HalfDtype): Float64Array {
  tables[dtype] ??= Float64Array.from({ length: 2 ** 16 }, (_, bits) => decodeBits(dtype, bits));
  return tables[dtype];
}

function decodeBits(dtype: HalfDtype, bits: number): number {
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
  const bits = new Uint16Array(data.length);
  for (let i = 0; i < bits.length; i++) bits[i] = toBits(dtype, data[i]);
  return { data: bits, shape: [...shape], dtype };
}

/** The values of a tensor of any dtype as float32, which holds them all. */
export function decode(tensor: {
  data: ArrayLike<number>;
  shape: readonly number[];
  dtype?: string;
}): Tensor32 {
  const { data, shape, dtype } = tensor;
  if (!(data instanceof Uint16Array) || (dtype !== 'bf16' && dtype !== 'f16')) {
    return { data: Float32Array.from(data), shape: [...shape] };
  }
  const table = tableOf(dtype);
  const values = new Float32Array(data.length);
  for (let i = 0; i < values.length; i++) values[i] = table[data[i]];
  return { data: values, shape: [...shape] };
}

/** A tensor whose elements are all NaN, so that one never written shows. */
export function unwritten(dtype: FloatDtype, shape: readonly number[]): Tensor32 | HalfTensor {
  const size = sizeOf(shape);
  if (dtype === 'f32') return { data: new Float32Array(size).fill(NaN), shape: [...shape] };
  return { data: new Uint16Array(size).fill(formats[dtype].nan), shape: [...shape], dtype };
}

const float64 = new Float64Array(1);
const words = new Uint32Array(float64.buffer);
const high = new Uint8Array(Uint16Array.of(1).buffer)[0]; // 1: the last word is the high one

/** floor(log2 |x|); of zeros and of float64's subnormals less than any format here asks for. */
function exponentOf(x: number): number {
  float64[0] = x;
  return ((words[high] >>> 20) & 0x7ff) - 1023;
}

const LOWEST = -160;
const powers = Float64Array.from({ length: 1200 }, (_, i) => 2 ** (i + LOWEST));

function powerOfTwo(exponent: number): number {
  return powers[exponent - LOWEST];
}

function roundToEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}
