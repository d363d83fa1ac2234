import type { Tensor } from '@tensorflow/tfjs-core';
import { rangeError, show, typeError } from '../../errors';
import { checkKeys } from '../../linalg/arguments';
import type { RankActivation } from '../../lora/adapterSpec';
import { PackedWeight } from '../../lora/packedWeight';
import type { IndexArray } from '../../types';
import { tf } from './core';
import { type Plain, plainTensor } from './plain';

/** An adapter of {@link loraLinear}: `AdapterSpec` of the package itself over tf.Tensors, all of which have gradients. */
export interface LoraAdapterTensors {
  /** A `[r,in]`; or indices `[r]` of columns of x. */
  a: Tensor | Int32Array;
  /** B `[out,r2]`; or indices `[r2]` of outputs. */
  b: Tensor | Int32Array;
  /** Default 1; a tensor of one number has a gradient. */
  scale?: number | Tensor;
  /** M: a matrix `[r2,r]`, or a diagonal `[r]`. */
  mid?: Tensor;
  /** phi */
  act?: RankActivation;
  /** `[r]`, added before phi. */
  rankBias?: Tensor;
  /** d `[out]` */
  baseScale?: Tensor;
  /** c `[out]`, multiplied by scale. */
  outBias?: Tensor;
  /** Counts only the first so many ranks. */
  rank?: number;
}

/** Which of the adapters a row of x has: `AdapterRouting` with places in `adapters` for ids, -1 for none. */
export type LoraTensorRouting =
  | { kind: 'one'; id: number }
  | { kind: 'segments'; indptr: IndexArray | Tensor; ids: Int32Array | Tensor }
  | { kind: 'tokens'; ids: Int32Array | Tensor }
  | { kind: 'topK'; k: number; ids: Int32Array | Tensor; gates: Tensor };

/** Inputs of {@link loraLinear}. */
export interface LoraLinearTensors {
  /** `[...,in]` */
  x: Tensor;
  /**
   * W `[out,in]`, frozen: it has no gradient, and no place on the tape. A tensor is packed anew by every call and every
   * backward; what `packWeight` of the package made is packed already, and may be quantised.
   */
  base?: PackedWeight | Tensor | 'identity' | null;
  /** One, or those that the routing chooses from. */
  adapters?: LoraAdapterTensors | readonly LoraAdapterTensors[];
  /** May be absent where there is one adapter: every row then has it. */
  routing?: LoraTensorRouting;
  /** `[out]` */
  bias?: Tensor;
}

/** What the engine is given for an adapter. @internal */
export type PlainAdapter = Record<string, any>;

const OPERATION = 'loraLinear';
const TENSORS = ['mid', 'rankBias', 'baseScale', 'outBias'];
const FIELDS = ['a', 'b', 'scale', 'act', 'rank', ...TENSORS];

/** The arguments of a call, read once: arrays for the engine, and tensors for the tape. @internal */
export class LoraArguments {
  readonly x: Plain;
  readonly bias: Plain | undefined;
  readonly base: PackedWeight | Plain | 'identity' | null;
  readonly adapters: PlainAdapter[] | undefined;
  readonly routing: Record<string, any> | undefined;
  /** What has a gradient, and where it stands in the results of the backward. */
  readonly tensors: Tensor[] = [];
  readonly #gradients: ((results: any) => Plain | undefined)[] = [];

  constructor(inputs: LoraLinearTensors) {
    checkKeys(OPERATION, 'an input', inputs, ['x', 'base', 'adapters', 'routing', 'bias']);
    const { x, base = null, adapters, routing, bias } = inputs;
    this.x = this.#add('x', x, ({ dx }) => dx);
    if (this.x.shape.length === 0)
      throw rangeError(OPERATION, 'x: expected shape [...,in], got []');
    this.base = this.#base(base);
    if (bias !== undefined) this.bias = this.#add('bias', bias, ({ dBias }) => dBias);
    if (adapters !== undefined) {
      const list: unknown = Array.isArray(adapters) ? adapters : [adapters];
      this.adapters = (list as unknown[]).map((adapter, i) => this.#adapter(adapter, i));
    }
    this.routing = this.#routing(routing);
  }

  /** Sizes of the layer. */
  get inFeatures(): number {
    return this.x.shape[this.x.shape.length - 1];
  }

  get outFeatures(): number {
    const { base, adapters, bias } = this;
    if (base === 'identity') return this.inFeatures;
    if (base instanceof PackedWeight) return base.outFeatures;
    const b = adapters?.[0]?.b;
    const size = base?.shape[0] ?? (b instanceof Int32Array ? bias?.shape[0] : b?.shape[0]);
    if (size === undefined)
      throw typeError(
        OPERATION,
        'base: expected a weight where neither b nor bias has the number of outputs, got none',
      );
    return size;
  }

  /** One for each of `tensors`, of the results of the engine's backward. */
  gradients(results: any): Plain[] {
    return this.#gradients.map(
      (find, i) => find(results) ?? zerosLike(this.tensors[i].shape, this.tensors[i].size),
    );
  }

  #add(name: string, tensor: unknown, gradient: (results: any) => Plain | undefined): Plain {
    const plain = plainTensor(OPERATION, name, tensor, 'float32');
    this.tensors.push(tensor as Tensor);
    this.#gradients.push(gradient);
    return plain;
  }

  #base(base: unknown): PackedWeight | Plain | 'identity' | null {
    if (base === null || base === 'identity' || base instanceof PackedWeight) return base;
    if (base instanceof tf.Tensor) return plainTensor(OPERATION, 'base', base, 'float32');
    throw typeError(
      OPERATION,
      `base: expected a tf.Tensor, what packWeight() returned, 'identity' or null, got ${show(base)}`,
    );
  }

  #adapter(adapter: unknown, index: number): PlainAdapter {
    const place = `adapters[${index}]`;
    if (typeof adapter !== 'object' || adapter === null || adapter instanceof tf.Tensor)
      throw typeError(OPERATION, `${place}: expected an object, got ${show(adapter)}`);
    checkKeys(OPERATION, 'an input', adapter, FIELDS);
    const given = adapter as Record<string, unknown>;
    const read = (field: string, gradient: string): Plain =>
      this.#add(`${place}.${field}`, given[field], (results) => {
        return results.adapters.get(index)?.[gradient];
      });
    const spec: PlainAdapter = { act: given.act, rank: given.rank, scale: given.scale };
    for (const field of ['a', 'b'])
      spec[field] = indicesOf(`${place}.${field}`, given[field]) ?? read(field, gradientOf(field));
    for (const field of TENSORS)
      if (given[field] !== undefined) spec[field] = read(field, gradientOf(field));
    if (given.scale instanceof tf.Tensor) spec.scale = this.#scale(place, given.scale, index);
    return spec;
  }

  #scale(place: string, scale: Tensor, index: number): number {
    const { shape, size } = scale;
    const { data } = this.#add(`${place}.scale`, scale, ({ adapters }) => {
      const adapter = adapters.get(index);
      return adapter && { data: Float32Array.of(adapter.dScale), shape };
    });
    if (size !== 1)
      throw typeError(OPERATION, `${place}.scale: expected one number, got shape [${shape}]`);
    return data[0];
  }

  #routing(routing: unknown): Record<string, any> | undefined {
    const { adapters } = this;
    if (routing === undefined) {
      if (adapters && adapters.length !== 1)
        throw typeError(
          OPERATION,
          `routing: expected one with ${adapters.length} adapters, got undefined`,
        );
      return adapters && { kind: 'one', id: 0 };
    }
    if (typeof routing !== 'object' || routing === null)
      throw typeError(OPERATION, `routing: expected an object, got ${show(routing)}`);
    const result: Record<string, any> = { ...routing };
    for (const name of ['indptr', 'ids'])
      result[name] = indicesOf(`routing.${name}`, result[name]) ?? result[name];
    if (result.gates !== undefined)
      result.gates = this.#add('routing.gates', result.gates, ({ dGates }) => dGates);
    return result;
  }
}

/** The numbers of an index list; undefined for what is none. They are copied, as the backward needs them too. */
function indicesOf(name: string, value: unknown): Int32Array | undefined {
  if (value instanceof Int32Array) return value.slice();
  if (!(value instanceof tf.Tensor) || value.dtype !== 'int32') return undefined;
  return plainTensor(OPERATION, name, value, 'int32').data as Int32Array;
}

function gradientOf(field: string): string {
  return `d${field[0].toUpperCase()}${field.slice(1)}`;
}

function zerosLike(shape: number[], size: number): Plain {
  return { data: new Float32Array(size), shape };
}
