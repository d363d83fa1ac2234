// The tensors of a layer by the names they have in its published checkpoints.
import { rangeError, show, typeError, unknownKey } from '../errors';
import { readDType, readShape, TENSOR, writeTensor } from '../header';
import { checkKeys } from '../linalg/arguments';
import type { AdapterBank } from '../lora/adapterBank';
import { floatsOf } from '../lora/floats';
import type { AdapterRouting } from '../lora/loraLinear';
import { PackedWeight, type WeightFormat } from '../lora/packedWeight';
import { packWeightSync } from '../lora/packWeight';
import type { FloatDType, FloatTensor, Tensor } from '../types';

/** A packed projection with low-rank adapters beside it: arguments of `loraLinear` but for x. */
export interface AdaptedLinear {
  readonly base: PackedWeight;
  readonly bank: AdapterBank;
  /** Rows are the layer's tokens, B T of them. */
  readonly routing: AdapterRouting;
}

/**
 * The matrix of a projection, `[out,in]`: a tensor in the dtype of x, or packed (once, for many calls; in any format), or
 * packed with adapters.
 */
export type LinearWeight = FloatTensor | PackedWeight | AdaptedLinear;

/** Tensors of a layer by name. `Linear` are its projections, the rest float tensors of any dtype. */
export type LayerWeights<
  Linear extends string,
  Required extends string = never,
  Optional extends string = never,
> = { readonly [Name in Linear]: LinearWeight } & { readonly [Name in Required]: FloatTensor } & {
  readonly [Name in Optional]?: FloatTensor;
};

/** A tensor as it was when it was read, of one dtype. */
export interface Read {
  readonly data: FloatTensor['data'];
  readonly shape: readonly number[];
  readonly dtype: FloatDType;
}

const FLOATS: readonly string[] = ['f32', 'bf16', 'f16'];

/** Reads a float tensor's fields once; on the CPU. */
export function readFloats(operation: string, name: string, value: unknown): Read {
  if (typeof value !== 'object' || value === null)
    throw typeError(operation, `${name}: expected a tensor {data, shape}, got ${show(value)}`);
  const header = new Float64Array(TENSOR);
  const data = writeTensor(operation, name, value as Tensor, header, 0) as FloatTensor['data'];
  const dtype = readDType(header, 0);
  if (!FLOATS.includes(dtype) || !ArrayBuffer.isView(data))
    throw typeError(operation, `${name}: expected a tensor of floats on the CPU, got ${dtype}`);
  return { data, shape: readShape(header, 0), dtype: dtype as FloatDType };
}

/** The weights of one call: every access says what is expected, and an error names the tensor. */
export class Weights {
  readonly #operation: string;
  readonly #record: Readonly<Record<string, unknown>>;

  constructor(operation: string, record: unknown, legal: readonly string[]) {
    if (typeof record !== 'object' || record === null || Array.isArray(record))
      throw typeError(operation, `weights: expected tensors by name, got ${show(record)}`);
    for (const name of Object.keys(record))
      if (!legal.includes(name)) throw unknownKey(operation, 'an input', name, [...legal]);
    this.#operation = operation;
    this.#record = record as Record<string, unknown>;
  }

  has(name: string): boolean {
    return this.#record[name] !== undefined;
  }

  /** `[out,in]` of a projection of vectors of length `width` */
  linear(name: string, width: number): LinearWeight & { readonly out: number } {
    const value = this.#record[name];
    const packed =
      value instanceof PackedWeight ? value : (value as Partial<AdaptedLinear> | undefined)?.base;
    if (packed instanceof PackedWeight) {
      if (packed.inFeatures !== width)
        throw rangeError(
          this.#operation,
          `${name}: expected ${width} columns, got a weight [${packed.outFeatures},${packed.inFeatures}]`,
        );
      const out = packed.outFeatures;
      return (value === packed ? { base: packed, out } : { ...(value as object), out }) as any;
    }
    const read = readFloats(this.#operation, name, value);
    this.#check(name, read.shape, ['out', width]);
    return { ...read, out: read.shape[0] } as any;
  }

  /** A tensor of this shape, -1 for any size, one dimension of 1 in the middle allowed where `[C,1,W]` is usual. */
  tensor(name: string, shape: readonly number[]): Read {
    const read = readFloats(this.#operation, name, this.#record[name]);
    const { shape: given } = read;
    const squeezed =
      given.length === 3 && given[1] === 1 && shape.length === 2 ? [given[0], given[2]] : given;
    this.#check(name, squeezed, shape);
    return { ...read, shape: squeezed };
  }

  /** {@link tensor} in float32. */
  floats(name: string, shape: readonly number[]): Tensor {
    const read = this.tensor(name, shape);
    if (read.dtype === 'f32') return read as Tensor;
    return {
      data: floatsOf(this.#operation, name, read as FloatTensor),
      shape: read.shape,
      dtype: 'f32',
    };
  }

  /** {@link tensor} in a dtype that a call beside an x of `dtype` takes: that one, or float32. */
  beside(name: string, shape: readonly number[], dtype: FloatDType): Read {
    const read = this.tensor(name, shape);
    return read.dtype === dtype ? read : (this.floats(name, shape) as Read);
  }

  #check(name: string, given: readonly number[], wanted: readonly (number | string)[]): void {
    const fits =
      given.length === wanted.length &&
      given.every((d, i) => typeof wanted[i] === 'string' || wanted[i] === -1 || d === wanted[i]);
    const shown = wanted.map((d) => (d === -1 ? 'n' : d));
    if (!fits)
      throw rangeError(this.#operation, `${name}: expected shape [${shown}], got [${given}]`);
  }
}

/** Options of {@link packLayerWeights}. */
export interface PackLayerOptions {
  /** How projections are held; default the dtype of each. */
  format?: WeightFormat;
}

/**
 * The tensors of one layer out of many: those whose names begin with `prefix`, under what follows it.
 *
 * @throws TypeError for a wrong type; RangeError where no name begins so
 *
 * @example
 * const { tensors } = await readSafetensors('model.safetensors');
 * const weights = packLayerWeights(layerTensors(tensors, 'model.layers.0.linear_attn.'));
 */
export function layerTensors<T>(
  tensors: ReadonlyMap<string, T> | { readonly [name: string]: T },
  prefix: string,
): Record<string, T> {
  const operation = 'layerTensors';
  if (typeof tensors !== 'object' || tensors === null)
    throw typeError(operation, `tensors: expected a Map or an object, got ${show(tensors)}`);
  if (typeof prefix !== 'string')
    throw typeError(operation, `prefix: expected a string, got ${show(prefix)}`);
  const entries = tensors instanceof Map ? tensors.entries() : Object.entries(tensors);
  const chosen: Record<string, T> = {};
  for (const [name, tensor] of entries)
    if (name.startsWith(prefix)) chosen[name.slice(prefix.length)] = tensor;
  if (Object.keys(chosen).length === 0)
    throw rangeError(operation, `prefix: expected how some name begins, got ${show(prefix)}`);
  return chosen;
}

/**
 * A layer's weights with its projections packed, so that no call packs them again: every matrix named `*weight` but
 * convolutions, `[out,in]`. The other tensors are passed on as they are.
 *
 * @throws as `packWeight`; TypeError for weights that are no object and for an unknown option
 */
export function packLayerWeights<W extends { readonly [Name in keyof W]?: unknown }>(
  weights: W,
  options: PackLayerOptions = {},
): { [Name in keyof W]: W[Name] | PackedWeight } {
  const operation = 'packLayerWeights';
  if (typeof weights !== 'object' || weights === null)
    throw typeError(operation, `weights: expected tensors by name, got ${show(weights)}`);
  checkKeys(operation, 'an option', options, ['format']);
  const { format } = options;
  const packed: Record<string, unknown> = { ...weights };
  for (const [name, value] of Object.entries(packed)) {
    const { shape, dtype = 'f32' } = (value ?? {}) as Partial<FloatTensor>;
    if (!name.endsWith('weight') || name.includes('conv1d') || shape?.length !== 2) continue;
    packed[name] = packWeightSync(value as FloatTensor, { format: format ?? dtype });
  }
  return packed as any;
}
