import type { Device } from '../device';
import { rangeError, show, typeError } from '../errors';
import { arrayKind, arrayLength } from '../header';
import { checkKeys } from '../linalg/arguments';
import { asynchronous, named, synchronous } from '../marshal';
import type { AsyncOptions } from '../types';
import type { PackedWeight } from './packedWeight';
import { placed, placedSync } from './placed';

/** Codes with one scale a row: element = code * scale of its row. */
export interface Int8Codes {
  format: 'int8';
  /** `[out,in]`, row-major */
  codes: Int8Array;
  /** `[out]` */
  scales: Float32Array;
  /** `[out,in]` */
  shape: readonly number[];
}

/** Codes with one scale a block of 32 elements; blocks begin with the row, and a row's last one may be short. */
export interface Q8Codes {
  format: 'q8';
  /** `[out,in]`, row-major */
  codes: Int8Array;
  /** `[out,ceil(in/32)]` */
  scales: Float32Array;
  /** `[out,in]` */
  shape: readonly number[];
}

/** As {@link Q8Codes}, but element = (code - 8) * scale of its block. */
export interface Q4Codes {
  format: 'q4';
  /** Two elements a byte, the first one in the high half, in row-major order; a last odd half counts for nothing. */
  codes: Uint8Array;
  /** `[out,ceil(in/32)]` */
  scales: Float32Array;
  /** `[out,in]` */
  shape: readonly number[];
}

/** NF4 as bitsandbytes lays it out and {@link quantiseNf4} returns it. */
export interface Nf4Codes {
  format: 'nf4';
  /** Two elements a byte, the first one in the high half, in row-major order; a last odd half counts for nothing. */
  codes: Uint8Array;
  /** Of each block of 64 elements, `[ceil(out*in/64)]`; blocks run on over the ends of rows. */
  absmax: Float32Array | DoubleQuantised;
  /** `[out,in]` */
  shape: readonly number[];
}

/** Numbers that are quantised themselves: number i is `codebook[codes[i]] * absmax[floor(i / blockSize)] + offset`. */
export interface DoubleQuantised {
  /** One a number. */
  codes: Uint8Array;
  /** `[ceil(numbers / blockSize)]` */
  absmax: Float32Array;
  /** What was subtracted: the numbers' mean, in bitsandbytes. */
  offset: number;
  /** `[256]`; default: the dynamic map of bitsandbytes */
  codebook?: Float32Array;
  /** Default 256. */
  blockSize?: number;
}

/** Data that {@link packQuantised} takes. */
export type QuantisedWeight = Int8Codes | Q8Codes | Q4Codes | Nf4Codes;

const FORMATS = ['int8', 'q8', 'q4', 'nf4'];
const NAMES = ['format', 'codes', 'scales', 'absmax', 'shape'];
const NESTED = ['codes', 'absmax', 'offset', 'codebook', 'blockSize'];
const DTYPES: Record<string, string> = { Uint8Array: 'u8', Int8Array: 'i8', Float32Array: 'f32' };

/** A bare array as the tensor of rank 1 that the engine takes. */
function flat(operation: string, name: string, array: unknown, kinds: string): unknown {
  if (array === undefined) return undefined;
  const kind = arrayKind(array);
  if (kind === undefined || !kinds.includes(kind))
    throw typeError(operation, `${name}: expected ${kinds}, got ${show(array)}`);
  return { data: array, shape: [arrayLength(array)], dtype: DTYPES[kind] };
}

/** The engine's inputs and options. */
function readQuantised(weight: any, options: any): [inputs: unknown, options: unknown] {
  const operation = 'packQuantised';
  checkKeys(operation, 'an input', weight, NAMES);
  if (options !== undefined) checkKeys(operation, 'an option', options, ['signal', 'device']);
  const { format, codes, scales, absmax, shape } = weight;
  if (!FORMATS.includes(format)) {
    const text = `format: expected '${FORMATS.join("', '")}', got ${show(format)}`;
    throw typeof format === 'string' ? rangeError(operation, text) : typeError(operation, text);
  }
  if (!Array.isArray(shape))
    throw typeError(operation, `shape: expected [out,in], got ${show(shape)}`);
  const rank: unknown = shape.length; // a proxy may say anything
  const [out, columns] = rank === 2 ? [shape[0], shape[1]] : [];
  if (typeof out !== 'number' || typeof columns !== 'number')
    throw typeError(operation, `shape: expected two numbers [out,in], got ${show(shape)}`);
  const inputs: Record<string, unknown> = {
    codes: flat(operation, 'codes', codes, 'an Int8Array or a Uint8Array'),
    scales: flat(operation, 'scales', scales, 'a Float32Array'),
  };
  const numbers: Record<string, unknown> = { format, out, in: columns, signal: options?.signal };
  if (absmax === undefined || arrayKind(absmax) !== undefined) {
    inputs.absmax = flat(operation, 'absmax', absmax, 'a Float32Array');
  } else {
    if (typeof absmax !== 'object' || absmax === null)
      throw typeError(
        operation,
        `absmax: expected a Float32Array or {${NESTED.join(', ')}}, got ${show(absmax)}`,
      );
    checkKeys(operation, 'an input', absmax, NESTED);
    const { codes: inner, absmax: outer, codebook, offset, blockSize } = absmax;
    inputs['absmax.codes'] = flat(operation, 'absmax.codes', inner, 'a Uint8Array');
    inputs['absmax.absmax'] = flat(operation, 'absmax.absmax', outer, 'a Float32Array');
    inputs['absmax.codebook'] = flat(operation, 'absmax.codebook', codebook, 'a Float32Array');
    Object.assign(numbers, { 'absmax.offset': offset, 'absmax.blockSize': blockSize });
  }
  if (numbers.signal === undefined) delete numbers.signal;
  return [inputs, numbers];
}

/** Options of {@link packQuantised}. */
export interface PackQuantisedOptions {
  /** Where it shall be; default `'cpu'`. On a device it has the same codes and scales as on the CPU. */
  device?: Device;
}

const pack = asynchronous('packQuantised');
const packSync = synchronous('packQuantised');

/**
 * A weight that others have quantised, in the order in which products read it. Its codes and scales stay what they are;
 * double quantisation (the scales of NF4, quantised once more) is resolved into float32 scales.
 *
 * @throws (rejects) TypeError for a wrong type, dtype or unknown key; RangeError for a wrong shape or length and when there
 * is no memory
 * @see Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, 2023 (arXiv:2305.14314)
 */
export const packQuantised: (
  weight: QuantisedWeight,
  options?: PackQuantisedOptions & AsyncOptions,
) => Promise<PackedWeight> = named('packQuantised', async (weight, options) => {
  const [inputs, numbers] = readQuantised(weight, options);
  return placed('packQuantised', options?.device, async () => (await pack(inputs, numbers)).packed);
});

/**
 * {@link packQuantised} on the caller's thread and memory.
 * @throws the same errors, synchronously
 */
export const packQuantisedSync: (
  weight: QuantisedWeight,
  options?: PackQuantisedOptions,
) => PackedWeight = named('packQuantisedSync', (weight, options) => {
  const [inputs, numbers] = readQuantised(weight, options);
  return placedSync('packQuantised', options?.device, () => packSync(inputs, numbers).packed);
});
