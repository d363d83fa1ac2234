import { rangeError, renamed, show, typeError } from '../errors';
import { arrayKind } from '../header';
import { checkKeys } from '../linalg/arguments';
import { type DoraNormsInputs, doraNorms, doraNormsSync } from '../ops/doraNorms';
import type { AsyncOptions, FloatTensor, ResultTensor, Tensor } from '../types';
import { floatsOf } from './floats';

/** Inputs of {@link doraAdapter}: an adapter as DoRA trains it and as PEFT stores it. */
export interface DoraAdapterInputs extends DoraNormsInputs {
  /** m `[out]` */
  magnitude: Tensor;
  /** `[out]`, as PEFT's lora_B.bias is stored */
  outBias?: Tensor;
}

/** Options of {@link doraAdapter}. */
export interface DoraAdapterOptions {
  /** What the layer multiplies the adapter's output by; default 1. */
  scale?: number;
}

/** The same adapter as loraLinear takes it, for an adapter bank. */
export interface DoraAdapter<A extends FloatTensor = FloatTensor> {
  /** a as given */
  a: A;
  /** `[out,rank]`: row i of b times d_i, float32 */
  b: ResultTensor;
  /** As given in the options. */
  scale: number;
  /** As given. */
  mid?: Tensor;
  /** d `[out]`: the base product's factor */
  baseScale: ResultTensor;
  /** `[out]`: times d */
  outBias?: ResultTensor;
}

/** What {@link doraAdapter} returns. */
export interface DoraAdapterResult<A extends FloatTensor = FloatTensor> {
  adapter: DoraAdapter<A>;
  /** `[out]`: norms of the rows of `W + scale b mid a` */
  norms: ResultTensor;
}

const OPERATION = 'doraAdapter';
const NAMES = ['weight', 'base', 'a', 'b', 'mid', 'magnitude', 'outBias'];

/** Sizes of a tensor [out,rank], each read once: a proxy may say another thing the second time. */
function readSizes(operation: string, name: string, tensor: FloatTensor): [number, number] {
  const shape: unknown = typeof tensor === 'object' ? tensor?.shape : undefined;
  const sizes = Array.isArray(shape) && shape.length === 2 ? [shape[0], shape[1]] : [];
  if (!sizes.length || !sizes.every((n) => Number.isSafeInteger(n) && n >= 0))
    throw typeError(
      operation,
      `${name}: expected a tensor {data, shape} of shape [out,rank], got ${show(tensor)}`,
    );
  return [sizes[0], sizes[1]];
}

/** Values of a float32 tensor [out]. */
function readVector(operation: string, name: string, tensor: Tensor, out: number): Float32Array {
  if (typeof tensor !== 'object' || tensor === null)
    throw typeError(operation, `${name}: expected a tensor {data, shape}, got ${show(tensor)}`);
  const { data, shape } = tensor;
  if (arrayKind(data) !== 'Float32Array')
    throw typeError(operation, `${name}: expected data in a Float32Array, got ${show(data)}`);
  if (!Array.isArray(shape) || shape.length !== 1 || shape[0] !== out || data.length !== out)
    throw rangeError(
      operation,
      `${name}: expected shape [out] = [${out}], got ${Array.isArray(shape) ? `[${shape.slice(0, 8).map(show)}]` : show(shape)}`,
    );
  return data.slice();
}

function vector(data: Float32Array): ResultTensor {
  return { data, shape: [data.length], dtype: 'f32' };
}

/** What is read of the caller's objects before anything is computed. */
interface Read<A extends FloatTensor> {
  norms: DoraNormsInputs;
  a: A;
  b: Float32Array;
  shape: [out: number, rank: number];
  mid?: Tensor;
  scale: number;
  magnitude: Float32Array;
  outBias?: Float32Array;
}

function read<A extends FloatTensor>(
  inputs: DoraAdapterInputs & { a: A },
  options: DoraAdapterOptions,
  optionNames: string[],
): Read<A> {
  checkKeys(OPERATION, 'an input', inputs, NAMES);
  checkKeys(OPERATION, 'an option', options, optionNames);
  const { weight, base, a, b, mid, magnitude, outBias } = inputs;
  const { scale = 1 } = options;
  if (typeof scale !== 'number')
    throw typeError(OPERATION, `scale: expected a number, got ${show(scale)}`);
  if (!Number.isFinite(Math.fround(scale)))
    throw rangeError(OPERATION, `scale: expected a number that float32 can hold, got ${scale}`);
  const shape = readSizes(OPERATION, 'b', b);
  const [out] = shape;
  const ofB = floatsOf(OPERATION, 'b', b);
  return {
    norms: { weight, base, a, b: { data: ofB, shape }, mid },
    a,
    b: ofB,
    shape,
    mid,
    scale,
    magnitude: readVector(OPERATION, 'magnitude', magnitude, out),
    outBias: outBias && readVector(OPERATION, 'outBias', outBias, out),
  };
}

function finish<A extends FloatTensor>(from: Read<A>, norms: ResultTensor): DoraAdapterResult<A> {
  const { a, b, shape, mid, scale, magnitude, outBias } = from;
  const [out, rank] = shape;
  const d = new Float32Array(out);
  for (let i = 0; i < out; i++) {
    if (norms.data[i] === 0)
      throw rangeError(
        OPERATION,
        `${from.norms.base ? 'base' : 'weight'}: row ${i} of W + scale b mid a is zero and has no direction`,
      );
    d[i] = magnitude[i] / norms.data[i];
    for (let k = 0; k < rank; k++) b[i * rank + k] *= d[i];
    if (outBias) outBias[i] *= d[i];
  }
  return {
    adapter: {
      a,
      b: { data: b, shape: [out, rank], dtype: 'f32' },
      scale,
      ...(mid && { mid }),
      baseScale: vector(d),
      ...(outBias && { outBias: vector(outBias) }),
    },
    norms,
  };
}

/**
 * DoRA as a loraLinear adapter. DoRA gives every row of the adapted weight the length m_i:
 *
 *     y = d (W x + scale b mid a x) + bias,   d_i = m_i / |(W + scale b mid a)_i|
 *
 * which is an adapter with d as `baseScale` and b's rows times d. It has to be made again when a factor or m changes.
 * Gradients with respect to it become those of DoRA's own parameters by {@link doraGradients}.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value, or a row of the adapted weight that is zero
 * @see Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, 2024 (arXiv:2402.09353)
 */
export async function doraAdapter<A extends FloatTensor>(
  inputs: DoraAdapterInputs & { a: A },
  options: DoraAdapterOptions & AsyncOptions = {},
): Promise<DoraAdapterResult<A>> {
  const from = read(inputs, options, ['scale', 'signal']);
  const { signal } = options;
  try {
    const { norms } = await doraNorms(from.norms, { scale: from.scale, ...(signal && { signal }) });
    return finish(from, norms);
  } catch (error) {
    throw renamed(OPERATION, 'doraNorms', error);
  }
}

/**
 * {@link doraAdapter} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export function doraAdapterSync<A extends FloatTensor>(
  inputs: DoraAdapterInputs & { a: A },
  options: DoraAdapterOptions = {},
): DoraAdapterResult<A> {
  const from = read(inputs, options, ['scale']);
  try {
    return finish(from, doraNormsSync(from.norms, { scale: from.scale }).norms);
  } catch (error) {
    throw renamed(OPERATION, 'doraNorms', error);
  }
}

/** Inputs of {@link doraGradients}. */
export interface DoraGradientsInputs {
  /** Gradient of the adapter's b, `[out,rank]`. */
  dB: Tensor;
  /** Gradient of its baseScale, `[out]`. */
  dBaseScale: Tensor;
  /** Gradient of its outBias, `[out]`. */
  dOutBias?: Tensor;
  /** DoRA's b, `[out,rank]`: not the adapter's. */
  b: FloatTensor;
  /** m `[out]` */
  magnitude: Tensor;
  /** DoRA's outBias, `[out]`, with dOutBias. */
  outBias?: Tensor;
  /** As {@link doraAdapter} returned them, `[out]`. */
  norms: Tensor;
}

/** What {@link doraGradients} returns. */
export interface DoraGradients {
  /** `[out,rank]` */
  dB: ResultTensor;
  /** `[out]` */
  dMagnitude: ResultTensor;
  /** `[out]`, with dOutBias */
  dOutBias?: ResultTensor;
}

const GRADIENT_NAMES = ['dB', 'dBaseScale', 'dOutBias', 'b', 'magnitude', 'outBias', 'norms'];

/**
 * Gradients of DoRA's parameters from those of the adapter that {@link doraAdapter} made: with d = m / norms,
 * `dB_i = d_i dB'_i` and `dMagnitude_i = (dBaseScale_i + dB'_i . b_i + dOutBias'_i outBias_i) / norms_i`. The norms count as
 * constants, as in the paper (section 4.3) and in PEFT. Gradients of a and mid are the adapter's own.
 *
 * @throws TypeError for a wrong type, missing argument or unknown key; RangeError for a wrong shape
 * @see Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, 2024 (arXiv:2402.09353)
 */
export function doraGradients(inputs: DoraGradientsInputs): DoraGradients {
  const operation = 'doraGradients';
  checkKeys(operation, 'an input', inputs, GRADIENT_NAMES);
  const { dB, b } = inputs;
  const [out, rank] = readSizes(operation, 'dB', dB);
  const sizesOfB = readSizes(operation, 'b', b);
  if (sizesOfB[0] !== out || sizesOfB[1] !== rank)
    throw rangeError(
      operation,
      `b: expected shape [out,rank] = [${out},${rank}] of dB, got [${sizesOfB}]`,
    );
  const ofB = floatsOf(operation, 'b', b);
  const dOfB = floatsOf(operation, 'dB', dB);
  for (const [name, { length }] of Object.entries({ b: ofB, dB: dOfB }))
    if (length !== out * rank)
      throw rangeError(operation, `${name}: expected ${out * rank} elements, got ${length}`);
  const norms = readVector(operation, 'norms', inputs.norms, out);
  const magnitude = readVector(operation, 'magnitude', inputs.magnitude, out);
  const dMagnitude = readVector(operation, 'dBaseScale', inputs.dBaseScale, out);
  const withBias = inputs.dOutBias !== undefined || inputs.outBias !== undefined;
  const dOutBias = withBias && readVector(operation, 'dOutBias', inputs.dOutBias!, out);
  const outBias = withBias && readVector(operation, 'outBias', inputs.outBias!, out);
  for (let i = 0; i < out; i++) {
    const d = magnitude[i] / norms[i];
    let sum = dMagnitude[i];
    for (let k = i * rank; k < (i + 1) * rank; k++) {
      sum += dOfB[k] * ofB[k];
      dOfB[k] *= d;
    }
    if (dOutBias && outBias) {
      sum += dOutBias[i] * outBias[i];
      dOutBias[i] *= d;
    }
    dMagnitude[i] = sum / norms[i];
  }
  return {
    dB: { data: dOfB, shape: [out, rank], dtype: 'f32' },
    dMagnitude: vector(dMagnitude),
    ...(dOutBias && { dOutBias: vector(dOutBias) }),
  };
}
