import { rangeError, show, typeError } from '../errors';
import { arrayKind } from '../header';
import { checkKeys, checkMatrix, readInteger } from '../linalg/arguments';
import type { ResultTensor, Tensor } from '../types';

/** Turns weights into a format of few bits and back. `Quantised` is whatever the format holds. */
export interface Quantiser<Quantised> {
  /** `[out,in]` */
  quantise(weight: Tensor): Quantised;
  /** The values that the format stands for, `[out,in]`. */
  dequantise(quantised: Quantised): Tensor;
}

/** A weight in NF4, as bitsandbytes lays it out. */
export interface Nf4Weight {
  /** Two elements a byte, the first one in the high half, in row-major order; a last odd half is zero. */
  codes: Uint8Array;
  /** Largest magnitude of each block of 64 elements; blocks run on over the ends of rows. */
  absmax: Float32Array;
  /** `[out,in]` */
  shape: number[];
}

const BLOCK = 64;

/** Quantiles of a normal distribution, scaled to [-1, 1], zero among them. */
const CODEBOOK = Float32Array.of(
  -1,
  -0.6961928009986877,
  -0.5250730514526367,
  -0.39491748809814453,
  -0.28444138169288635,
  -0.18477343022823334,
  -0.09105003625154495,
  0,
  0.07958029955625534,
  0.16093020141124725,
  0.24611230194568634,
  0.33791524171829224,
  0.44070982933044434,
  0.5626170039176941,
  0.7229568362236023,
  1,
);

const MIDPOINTS = Float32Array.from({ length: 15 }, (_, i) => (CODEBOOK[i] + CODEBOOK[i + 1]) / 2);

/** The nearest code, by halving; the lower one half way. */
function nearest(x: number): number {
  let code = x > MIDPOINTS[7] ? 8 : 0;
  if (x > MIDPOINTS[code + 3]) code += 4;
  if (x > MIDPOINTS[code + 1]) code += 2;
  if (x > MIDPOINTS[code]) code += 1;
  return code;
}

/**
 * Rounds a weight to NF4: each block of 64 elements is divided by its largest magnitude and rounded to the nearest of sixteen
 * values. A reference: plain code on this thread.
 *
 * @throws TypeError for a wrong type, RangeError for a wrong shape or elements that are not finite
 * @see Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, 2023 (arXiv:2305.14314)
 */
export function quantiseNf4(weight: Tensor): Nf4Weight {
  const { data, shape } = checkMatrix('quantiseNf4', 'weight', weight);
  const codes = new Uint8Array(Math.ceil(data.length / 2));
  const absmax = new Float32Array(Math.ceil(data.length / BLOCK));
  for (let block = 0; block < absmax.length; block++) {
    const start = block * BLOCK;
    const end = Math.min(start + BLOCK, data.length);
    let largest = 0;
    for (let i = start; i < end; i++) largest = Math.max(largest, Math.abs(data[i]));
    absmax[block] = largest;
    for (let i = start; i < end; i++) {
      const code = nearest(largest === 0 ? 0 : data[i] / largest);
      codes[i >> 1] |= i & 1 ? code : code << 4;
    }
  }
  return { codes, absmax, shape: [...shape] };
}

/**
 * The float32 values of an NF4 weight.
 *
 * @throws TypeError for a wrong type or unknown key, RangeError for lengths that do not fit the shape
 */
export function dequantiseNf4(quantised: Nf4Weight): ResultTensor {
  const operation = 'dequantiseNf4';
  checkKeys(operation, 'an input', quantised, ['codes', 'absmax', 'shape']);
  const { codes, absmax, shape } = quantised;
  if (!Array.isArray(shape) || shape.length !== 2)
    throw rangeError(operation, `shape: expected [out,in], got ${show(shape)}`);
  const sizes = shape.map((n) => readInteger(operation, 'shape', n, undefined, 1));
  const size = sizes[0] * sizes[1];
  expectArray(operation, 'codes', codes, 'Uint8Array', Math.ceil(size / 2));
  expectArray(operation, 'absmax', absmax, 'Float32Array', Math.ceil(size / BLOCK));
  const data = new Float32Array(size);
  for (let i = 0; i < size; i++) {
    const pair = codes[i >> 1];
    data[i] = CODEBOOK[i & 1 ? pair & 15 : pair >> 4] * absmax[Math.floor(i / BLOCK)];
  }
  return { data, shape: sizes, dtype: 'f32' };
}

function expectArray(
  operation: string,
  name: string,
  array: { length: number },
  kind: string,
  length: number,
): void {
  if (arrayKind(array) !== kind)
    throw typeError(operation, `${name}: expected a ${kind}, got ${show(array)}`);
  if (array.length !== length)
    throw rangeError(operation, `${name}: expected length ${length}, got ${array.length}`);
}

/** {@link quantiseNf4} and {@link dequantiseNf4}, as initialisers take them. */
export const nf4: Quantiser<Nf4Weight> = { quantise: quantiseNf4, dequantise: dequantiseNf4 };
