/** 16-bit floats as bit patterns: values rounded to nearest, ties to even, and back. */

export type HalfDtype = 'bf16' | 'f16';

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** Bit patterns of float32 values. */
export function encodeHalf(values: ArrayLike<number>, dtype: HalfDtype): Uint16Array {
  return Uint16Array.from(values, dtype === 'bf16' ? toBf16 : toF16);
}

/** Values of bit patterns. */
export function decodeHalf(patterns: ArrayLike<number>, dtype: HalfDtype): Float32Array {
  return Float32Array.from(patterns, dtype === 'bf16' ? fromBf16 : fromF16);
}

/** Values that the dtype has exactly. */
export function roundToHalf(values: ArrayLike<number>, dtype: HalfDtype): Float32Array {
  return decodeHalf(encodeHalf(values, dtype), dtype);
}

function toBf16(x: number): number {
  float[0] = x;
  const u = bits[0];
  // A quiet bit keeps a NaN from becoming an infinity.
  if (Number.isNaN(x)) return (u >>> 16) | 0x40;
  return (u + 0x7fff + ((u >>> 16) & 1)) >>> 16;
}

function fromBf16(pattern: number): number {
  bits[0] = pattern << 16;
  return float[0];
}

function toF16(x: number): number {
  float[0] = x;
  const sign = (bits[0] >>> 16) & 0x8000;
  if (Number.isNaN(x)) return sign | 0x7e00;
  const size = Math.abs(float[0]);
  if (size >= 65520) return sign | 0x7c00; // half way between the largest and what would follow it
  const exponent = Math.max(((bits[0] >>> 23) & 0xff) - 127, -14);
  const steps = roundToEven(size * 2 ** (10 - exponent));
  // In [1024, 2048] for a normal number: the implicit bit and a carry of the rounding both count into the exponent.
  return sign | (((exponent + 14) << 10) + steps);
}

function fromF16(pattern: number): number {
  const sign = pattern & 0x8000 ? -1 : 1;
  const exponent = (pattern >>> 10) & 0x1f;
  const fraction = pattern & 0x3ff;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

function roundToEven(x: number): number {
  const below = Math.floor(x);
  const rest = x - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}
